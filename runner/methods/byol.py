"""BYOL: predict what a slowly moving copy makes of the other view (Grill et al. 2020, arXiv:2006.07733)."""

from pydantic import Field
from torch import Tensor, nn

from runner.batch import Batch
from runner.losses.cosine import symmetric_negative_cosine
from runner.method import Task
from runner.methods._joint_embedding import SelfDistillation, TeacherOptions
from runner.projection import build_mlp

IN_BATCH_NEGATIVES = False
GLOBAL_VIEWS, LOCAL_VIEWS = (2, 2), False


class Config(TeacherOptions):
    predictor_hidden: int = Field(512, ge=1)
    """Width of the predictor's hidden layer."""

    @property
    def has_batch_norm(self) -> bool:
        """The predictor always has."""
        return True


def build(config: Config, encoder: nn.Module, task: Task) -> "BYOL":
    return BYOL(config, encoder, task)


class BYOL(SelfDistillation):
    def __init__(self, config: Config, encoder: nn.Module, task: Task) -> None:
        super().__init__(encoder, config, task)
        self.predictor = build_mlp((self.width, config.predictor_hidden, self.width))

    def compare(self, batch: Batch, features: list[Tensor], step: int) -> dict[str, Tensor]:
        one_BD, two_BD = (self.predictor(self.projector(view)) for view in features[:2])
        targets = self.teach(batch.global_views[0]), self.teach(batch.global_views[1])
        return {"ssl_loss": symmetric_negative_cosine((one_BD, two_BD), targets, self.group)}
