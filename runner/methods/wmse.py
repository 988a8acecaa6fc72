"""W-MSE: whitened views agree, so nothing can collapse (Ermolov et al. 2021, arXiv:2007.06346)."""

import torch
from pydantic import Field
from torch import Tensor, nn

from runner.batch import Batch
from runner.config import TrainConfig
from runner.explain import OptionError
from runner.losses.wmse import wmse
from runner.method import Task
from runner.methods._joint_embedding import JointEmbedding, JointEmbeddingOptions, Width

GLOBAL_VIEWS, LOCAL_VIEWS = (2, None), False


class Config(JointEmbeddingOptions):
    projector_widths: tuple[Width, ...] = Field((512, 64), min_length=1)
    """Widths of the projector's layers after the encoder's; whitening needs more samples than the last of them."""

    sub_batch: int | None = Field(None, ge=2)
    """Samples that are whitened together; None: the whole batch, of all ranks."""

    eps: float = Field(0.0, ge=0, lt=1)
    """Share of the identity in the covariance that is whitened by; above 0 where the batch is small."""


def check(config: Config, train: TrainConfig) -> None:
    """Raises OptionError where fewer rows are whitened together than that takes."""
    rows, width = train.batch_size // train.accumulate, config.projector_widths[-1]
    together = rows // max(1, rows // config.sub_batch) if config.sub_batch else rows
    if together <= width and not config.eps:
        given = {"train.batch_size": train.batch_size, "method.sub_batch": config.sub_batch}
        key = "method.sub_batch" if rows > width else "train.batch_size"
        problem = f"whitening {width} dimensions takes more than {width} rows, or method.eps above 0; here it has"
        raise OptionError(key, f"{given[key]} is not allowed; {problem} {together}")


def build(config: Config, encoder: nn.Module, task: Task) -> "WMSE":
    return WMSE(config, encoder, task)


class WMSE(JointEmbedding):
    def __init__(self, config: Config, encoder: nn.Module, task: Task) -> None:
        super().__init__(encoder, config, task)
        self.config = config

    def compare(self, batch: Batch, features: list[Tensor], step: int) -> dict[str, Tensor]:
        projections_BVD = torch.stack([self.projector(view) for view in features], 1)
        return {"ssl_loss": wmse(projections_BVD, self.group, sub_batch=self.config.sub_batch, eps=self.config.eps)}
