"""VICReg: views agree, every dimension varies, no two of them together (Bardes et al. 2022, arXiv:2105.04906)."""

from pydantic import Field
from torch import Tensor, nn

from runner.batch import Batch
from runner.losses.vicreg import vicreg
from runner.method import Task
from runner.methods._joint_embedding import JointEmbedding, JointEmbeddingOptions, Width

GLOBAL_VIEWS, LOCAL_VIEWS = (2, 2), False


class Config(JointEmbeddingOptions):
    projector_widths: tuple[Width, ...] = Field((512, 512), min_length=1)
    """Widths of the projector's layers after the encoder's; the last one is what is compared."""

    invariance: float = Field(25.0, ge=0)
    """Weight of the squared distance of the views."""

    variance: float = Field(25.0, ge=0)
    """Weight of the hinge on the standard deviation of each dimension."""

    covariance: float = Field(1.0, ge=0)
    """Weight of the squared covariances between dimensions."""

    eps: float = Field(1e-4, gt=0)
    """Added to the variances before their root is taken."""


def build(config: Config, encoder: nn.Module, task: Task) -> "VICReg":
    return VICReg(config, encoder, task)


class VICReg(JointEmbedding):
    def __init__(self, config: Config, encoder: nn.Module, task: Task) -> None:
        super().__init__(encoder, config, task)
        self.config = config

    def compare(self, batch: Batch, features: list[Tensor], step: int) -> dict[str, Tensor]:
        config = self.config
        one_BD, two_BD = (self.projector(view) for view in features[:2])
        return vicreg(
            one_BD,
            two_BD,
            self.group,
            invariance=config.invariance,
            variance=config.variance,
            covariance=config.covariance,
            eps=config.eps,
        )._asdict()
