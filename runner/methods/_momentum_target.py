"""What SCL and ReLIC share: an online network, its slowly moving target, a learnt logistic scale, multi-crop pairs.

Target network and projector are ReLIC's (Mitrovic et al. 2021); multi-crop is DINO's, with every pair of a global
and another view weighing the same.

Shapes: B samples on this rank, C x H x W images, V views of which the first T are global, D projection width.
"""

import copy
import math
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from runner.batch import Batch
from runner.ema import update_ema
from runner.errors import ConfigError
from runner.losses.similarity import bounded_scale
from runner.method import Method, Task
from runner.schema import Options


class MomentumTargetOptions(Options):
    alpha: float = Field(1.0, ge=0)
    """Weight of the invariance term, a KL divergence between the two directions of a comparison."""

    init_scale: float = Field(5.0, gt=0)
    """Scale of the cosines at the start, one over the temperature; its logarithm is learnt."""

    max_scale: float | None = Field(5.0, gt=0)
    """The scale is kept at or below this; None lets it grow."""

    beta: float = Field(0.995, ge=0, lt=1)
    """How much of the target network stays at an update, at the start; it reaches 1 with the last step."""

    ema_after_steps: int = Field(1, ge=0)
    """Up to this step the target network is a copy of the online network."""

    ema_every_steps: int = Field(1, ge=1)
    """The target network moves at multiples of this step."""

    projector_hidden: int = Field(512, ge=1)
    """Width of the projector's hidden layer."""

    projector_width: int = Field(64, ge=1)
    """Width of the projections that are compared."""

    projector_batch_norm: bool = True
    """Batch normalisation in the projector's hidden layer."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """What `embed` gives."""
        return ("features",)

    @model_validator(mode="after")
    def _scale_in_bounds(self) -> Self:
        if self.max_scale is not None and self.init_scale > self.max_scale:
            raise ValueError(f"init_scale: {self.init_scale} is above max_scale {self.max_scale}")
        return self


class MomentumTarget(Method):
    """Online network (encoder, projector), its moving average (target), and the logarithm of the scale."""

    may_break_off = False

    def __init__(self, config: MomentumTargetOptions, encoder: nn.Module, task: Task) -> None:
        super().__init__()
        self.options, self.group, self.steps = config, task.group, task.steps
        self.encoder = encoder
        self.projector = build_projector(int(encoder.width), config)  # type: ignore[arg-type]
        # The target trains in training mode: both networks normalise by the statistics of their batch, else
        # they would differ by more than their weights. Its running statistics, which only evaluation uses,
        # follow its own batches (global views) and are drawn to the online ones with the rest of the average.
        self.target_encoder = copy.deepcopy(self.encoder).requires_grad_(False)
        self.target_projector = copy.deepcopy(self.projector).requires_grad_(False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(config.init_scale)))

    def project(self, batch: Batch) -> tuple[Tensor, Tensor, list[tuple[int, int]]]:
        """Online projections (B, V, D), those of the target (B, T, D), and which of them are compared."""
        views = [*batch.global_views, *batch.local_views]
        pairs = [(v, t) for t in range(len(batch.global_views)) for v in range(len(views)) if v != t]
        if not pairs:
            problem = "this method compares views of an image with each other, so it needs at least 2 of them, got 1"
            raise ConfigError(f"views: {problem}")
        # view by view, because batch norm must not mix the statistics of different augmentations
        online_BVD = torch.stack([self.projector(self.encoder(view)) for view in views], 1)
        with torch.no_grad():
            target_BTD = torch.stack(
                [self.target_projector(self.target_encoder(view)) for view in batch.global_views], 1
            )
        return online_BVD, target_BTD, pairs

    def measure(self, step: int, kl: Tensor | None) -> dict[str, Tensor | float]:
        """What is logged of a step beside the loss."""
        measured: dict[str, Tensor | float] = {
            "scale": bounded_scale(self.log_scale.detach(), self.options.max_scale),
            "beta": self.beta_after(step + 1),
        }
        return measured if kl is None else {"kl": kl, **measured}

    @torch.no_grad()
    def after_fit_step(self, step: int) -> None:
        """Pull the scale back to its bound and the target after the online network; `step` steps are done."""
        if self.options.max_scale is not None:
            self.log_scale.clamp_(max=math.log(self.options.max_scale))
        beta = self.beta_after(step)
        if beta < 1:
            update_ema(self.target_encoder, self.encoder, beta)
            update_ema(self.target_projector, self.projector, beta)

    def beta_after(self, step: int) -> float:
        """How much of the target stays at the update after `step` optimizer steps."""
        options = self.options
        return ema_beta(step, options.beta, self.steps, options.ema_after_steps, options.ema_every_steps)

    def encode(self, images_BCHW: Tensor) -> Tensor:
        """(B, width) features of the target encoder; call it in evaluation mode."""
        features: Tensor = self.target_encoder(images_BCHW)
        return features

    def no_weight_decay(self) -> set[str]:
        """Decay would draw the scale to 1 and make every pair a coin toss."""
        return {"log_scale"}


def build_projector(width: int, config: MomentumTargetOptions) -> nn.Sequential:
    """Linear, batch norm, ReLU, Linear; the linear layers without bias."""
    norm = [nn.BatchNorm1d(config.projector_hidden)] if config.projector_batch_norm else []
    return nn.Sequential(
        nn.Linear(width, config.projector_hidden, bias=False),
        *norm,
        nn.ReLU(),
        nn.Linear(config.projector_hidden, config.projector_width, bias=False),
    )


def gamma_at(step: int, start: float, end: float, steps: int | None) -> float:
    """`start` to `end` along a half cosine over `steps`, then `end`; constant without steps."""
    if steps is None:
        return start
    return end + (start - end) * (1 + math.cos(math.pi * min(step, steps) / steps)) / 2


def beta_at(step: int, start: float, steps: int) -> float:
    """`start` to 1 along a half cosine over `steps`, then 1."""
    return gamma_at(step, start, 1.0, steps)


def ema_beta(step: int, start: float, steps: int, after: int, every: int) -> float:
    """How much of the target stays at the update after optimizer step `step`: 0 copies, 1 leaves it alone.

    Up to step `after` the target is a copy; then it moves at multiples of `every`, by the value that the
    schedule had at the update before (`start` at the first). A function of the step alone: a requeue changes
    nothing.
    """
    if step <= after:
        return 0.0
    if step % every:
        return 1.0
    previous = step - every
    return start if previous <= after else beta_at(previous, start, steps)
