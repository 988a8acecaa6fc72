"""SimCLR: find the other view of an image among all views of the batch (Chen et al. 2020, arXiv:2002.05709)."""

from pydantic import Field
from torch import Tensor, nn

from runner.batch import Batch
from runner.losses.nt_xent import nt_xent
from runner.method import Task
from runner.methods._joint_embedding import JointEmbedding, JointEmbeddingOptions

GLOBAL_VIEWS, LOCAL_VIEWS = (2, 2), False


class Config(JointEmbeddingOptions):
    temperature: float = Field(0.5, gt=0)
    """Cosines are divided by it."""


def build(config: Config, encoder: nn.Module, task: Task) -> "SimCLR":
    return SimCLR(config, encoder, task)


class SimCLR(JointEmbedding):
    def __init__(self, config: Config, encoder: nn.Module, task: Task) -> None:
        super().__init__(encoder, config, task)
        self.temperature = config.temperature

    def compare(self, batch: Batch, features: list[Tensor], step: int) -> dict[str, Tensor]:
        one_BD, two_BD = (self.projector(view) for view in features[:2])
        return {"ssl_loss": nt_xent(one_BD, two_BD, self.temperature, self.group)}
