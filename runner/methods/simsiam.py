"""SimSiam: predict the projection of the other view, held constant (Chen & He 2021, arXiv:2011.10566)."""

from pydantic import Field
from torch import Tensor, nn

from runner.batch import Batch
from runner.losses.cosine import symmetric_negative_cosine
from runner.method import Task
from runner.methods._joint_embedding import JointEmbedding, JointEmbeddingOptions, Width
from runner.projection import build_mlp

IN_BATCH_NEGATIVES = False
GLOBAL_VIEWS, LOCAL_VIEWS = (2, 2), False


class Config(JointEmbeddingOptions):
    projector_widths: tuple[Width, ...] = Field((512, 512, 512), min_length=1)
    """Widths of the projector's layers after the encoder's; batch norm follows the last one, too."""

    predictor_hidden: int = Field(128, ge=1)
    """Width of the predictor's hidden layer, narrower than the projections."""

    @property
    def has_batch_norm(self) -> bool:
        """The predictor always has."""
        return True


def build(config: Config, encoder: nn.Module, task: Task) -> "SimSiam":
    return SimSiam(config, encoder, task)


class SimSiam(JointEmbedding):
    def __init__(self, config: Config, encoder: nn.Module, task: Task) -> None:
        super().__init__(encoder, config, task, last_norm=True)
        self.predictor = build_mlp((self.width, config.predictor_hidden, self.width))

    def compare(self, batch: Batch, features: list[Tensor], step: int) -> dict[str, Tensor]:
        one_BD, two_BD = (self.projector(view) for view in features[:2])
        predictions = self.predictor(one_BD), self.predictor(two_BD)
        return {"ssl_loss": symmetric_negative_cosine(predictions, (one_BD, two_BD), self.group)}
