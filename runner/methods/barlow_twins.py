"""Barlow Twins: the correlation of the two views is the identity (Zbontar et al. 2021, arXiv:2103.03230)."""

from pydantic import Field
from torch import Tensor, nn

from runner.batch import Batch
from runner.losses.barlow_twins import barlow_twins
from runner.method import Task
from runner.methods._joint_embedding import JointEmbedding, JointEmbeddingOptions, Width

GLOBAL_VIEWS, LOCAL_VIEWS = (2, 2), False


class Config(JointEmbeddingOptions):
    projector_widths: tuple[Width, ...] = Field((512, 512), min_length=1)
    """Widths of the projector's layers after the encoder's; the last one is what is compared."""

    redundancy: float = Field(5e-3, ge=0)
    """Weight of the correlations between different dimensions."""


def build(config: Config, encoder: nn.Module, task: Task) -> "BarlowTwins":
    return BarlowTwins(config, encoder, task)


class BarlowTwins(JointEmbedding):
    def __init__(self, config: Config, encoder: nn.Module, task: Task) -> None:
        super().__init__(encoder, config, task)
        self.redundancy = config.redundancy

    def compare(self, batch: Batch, features: list[Tensor], step: int) -> dict[str, Tensor]:
        one_BD, two_BD = (self.projector(view) for view in features[:2])
        return barlow_twins(one_BD, two_BD, self.group, redundancy=self.redundancy)._asdict()
