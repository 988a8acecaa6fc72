"""Sigmoid contrastive learning of images: every view against a slowly moving copy of the network.

The loss is SigLIP's (Zhai et al. 2023) with a confidence penalty gamma and ReLIC's invariance term (Mitrovic
et al. 2021): runner/losses/sigmoid.py. The networks are in runner/methods/_momentum_target.py.
"""

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from runner.batch import Batch
from runner.losses.sigmoid import scl
from runner.method import Task
from runner.methods._momentum_target import MomentumTarget, MomentumTargetOptions, gamma_at


class Config(MomentumTargetOptions):
    gamma: float = Field(1.0, ge=0)
    """Confidence penalty: a pair weighs (1 - p)^gamma, p its probability of being right; 0 is SigLIP."""

    gamma_schedule_steps: int | None = Field(None, ge=1)
    """Take gamma to 0 along a half cosine over this many steps; None keeps it."""

    init_bias: float = -5.0
    """Added to the scaled cosines at the start, and learnt; below 0, because most pairs are negatives."""

    filter_threshold: float | None = Field(None, gt=0, lt=1)
    """After the warm-up, leave out negatives with (1 - p)^gamma up to this and weigh all others alike."""

    filter_warmup_steps: int = Field(5000, ge=0)
    """Filter at steps greater than this."""

    @model_validator(mode="after")
    def _something_to_filter(self) -> "Config":
        if self.filter_threshold is not None and self.gamma == 0:
            raise ValueError(f"filter_threshold: {self.filter_threshold} filters nothing with gamma 0")
        return self


def build(config: Config, encoder: nn.Module, task: Task) -> "SCL":
    """SCL on `encoder`, for `task.steps` optimizer steps in all."""
    return SCL(config, encoder, task)


class SCL(MomentumTarget):
    """The momentum pair, and the logistic bias."""

    def __init__(self, config: Config, encoder: nn.Module, task: Task) -> None:
        super().__init__(config, encoder, task)
        self.config = config
        self.bias = nn.Parameter(torch.tensor(config.init_bias))

    def compute_loss(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor | float]]:
        """The mean loss over global views of the target against the other views of the online network."""
        config = self.config
        online_BVD, target_BTD, pairs = self.project(batch)
        gamma = gamma_at(step, config.gamma, 0.0, config.gamma_schedule_steps)
        filtering = config.filter_threshold is not None and step > config.filter_warmup_steps
        loss, kl = scl(
            online_BVD,
            target_BTD,
            self.log_scale,
            self.bias,
            self.group,
            gamma=gamma,
            alpha=config.alpha,
            max_scale=config.max_scale,
            filter_threshold=config.filter_threshold if filtering else None,
            pairs=pairs,
        )
        return loss, {**self.measure(step, kl), "bias": self.bias.detach(), "gamma": gamma}

    def no_weight_decay(self) -> set[str]:
        """Nor may the bias decay: it says how rare positives are."""
        return {*super().no_weight_decay(), "bias"}
