"""ReLIC: tell each sample from all others, alike under every augmentation (Mitrovic et al. 2021, arXiv:2010.07922).

The baseline of SCL: softmax instead of independent questions; runner/losses/relic.py. `loss: sigmoid` is SigLIP's
instead, in the same networks. They are in runner/methods/_momentum_target.py.
"""

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from runner.batch import Batch
from runner.losses.relic import relic
from runner.losses.sigmoid import scl
from runner.method import Task
from runner.methods._momentum_target import MomentumTarget, MomentumTargetOptions


class Config(MomentumTargetOptions):
    loss: Literal["softmax", "sigmoid"] = "softmax"
    """softmax: cross entropy among all samples. sigmoid: every pair by itself."""

    init_scale: float = Field(1.0, gt=0)
    """Scale of the cosines at the start, one over the temperature; its logarithm is learnt. The original starts
    at 1 for softmax and at 10 for sigmoid."""

    init_bias: float | None = None
    """For sigmoid: added to the scaled cosines at the start, and learnt. None: 0 for softmax, where it would cancel,
    -10 for sigmoid."""

    projector_batch_norm: bool = False
    """Batch normalisation in the projector's hidden layer."""

    @model_validator(mode="after")
    def _bias_acts(self) -> "Config":
        if self.loss == "softmax" and self.init_bias is not None:
            raise ValueError("init_bias: a bias cancels in the softmax; leave it out")
        return self


def build(config: Config, encoder: nn.Module, task: Task) -> "ReLIC":
    return ReLIC(config, encoder, task)


class ReLIC(MomentumTarget):
    def __init__(self, config: Config, encoder: nn.Module, task: Task) -> None:
        super().__init__(config, encoder, task)
        self.config = config
        bias = -10.0 if config.init_bias is None else config.init_bias
        self.bias = nn.Parameter(torch.tensor(bias)) if config.loss == "sigmoid" else None

    def compute_loss(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor | float]]:
        """The mean loss over global views of the target against the other views of the online network."""
        config = self.config
        online_BVD, target_BTD, pairs = self.project(batch)
        options = {"alpha": config.alpha, "max_scale": config.max_scale}
        if self.bias is None:
            loss, kl = relic(online_BVD, target_BTD, self.log_scale, self.group, pairs=pairs, **options)  # type: ignore[arg-type]
        else:
            loss, kl = scl(
                online_BVD,
                target_BTD,
                self.log_scale,
                self.bias,
                self.group,
                gamma=0.0,
                pairs=pairs,
                **options,  # type: ignore[arg-type]
            )
        return loss, self.measure(step, kl)

    def no_weight_decay(self) -> set[str]:
        return super().no_weight_decay() | (set() if self.bias is None else {"bias"})
