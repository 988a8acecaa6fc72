"""What the methods share that compare the projections of two views of one network, and those with a slow teacher.

Shapes: B samples on this rank, V views, D projection width, F feature width.
"""

import copy
from abc import abstractmethod
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from runner.batch import Batch
from runner.ema import momentum_at, update_ema
from runner.errors import ConfigError
from runner.method import Method, Task
from runner.online_probe import OnlineProbe
from runner.projection import build_mlp
from runner.schema import Options

Width = Annotated[int, Field(ge=1)]


class JointEmbeddingOptions(Options):
    projector_widths: tuple[Width, ...] = Field((512, 128), min_length=1)
    """Widths of the projector's layers after the encoder's; the last one is what is compared."""

    online_probe: bool = False
    """Train a linear classifier beside the method, on detached features; it is what `accuracy` evaluates."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """What `embed` gives."""
        return ("features", "scores") if self.online_probe else ("features",)

    @property
    def has_batch_norm(self) -> bool:
        """Whether the head does: between the layers of its networks."""
        return len(self.projector_widths) > 1


class TeacherOptions(JointEmbeddingOptions):
    momentum: float = Field(0.996, ge=0, lt=1)
    """How much of the teacher stays at an update, at the start."""

    final_momentum: float = Field(1.0, ge=0, le=1)
    """The same at the end; between them lies half a cosine."""

    features: Literal["student", "teacher"] = "teacher"
    """Whose encoder is evaluated."""


class JointEmbedding(Method):
    """Encoder, projector and, if wanted, an online probe; a subclass compares the projections of the views."""

    may_break_off = False

    def __init__(self, encoder: nn.Module, config: JointEmbeddingOptions, task: Task, last_norm: bool = False) -> None:
        super().__init__()
        self.group, self.task = task.group, task
        self.encoder = encoder
        width = int(encoder.width)  # type: ignore[arg-type]
        self.projector = build_mlp((width, *config.projector_widths), last_norm=last_norm)
        self.width = config.projector_widths[-1]
        # The rest of the method begins with the same weights beside a probe and without one.
        with torch.random.fork_rng(devices=[]):
            self.probe = OnlineProbe(width, task.classes) if config.online_probe else None

    @abstractmethod
    def compare(self, batch: Batch, features: list[Tensor], step: int) -> dict[str, Tensor]:
        """The losses, by name, of the (B, F) features of each view of the batch."""

    def compute_loss(self, batch: Batch, step: int) -> tuple[dict[str, Tensor], dict[str, Tensor | float]]:
        """The losses of `compare`, and that of the online probe."""
        features = [self.encoder(view) for view in require_views(batch, 2)]
        losses = self.compare(batch, features, step)
        if self.probe is None:
            return losses, {}
        probe_loss, measured = self.probe(features, batch.labels)
        return {**losses, "probe_loss": probe_loss}, measured

    def encode(self, images_BCHW: Tensor) -> Tensor:
        """(B, F) features; call it in evaluation mode."""
        features: Tensor = self.encoder(images_BCHW)
        return features

    def predict(self, batch: Batch) -> Tensor | None:
        """(B, classes) logits of the online probe on the features it trains on, the student's; None without one."""
        return None if self.probe is None else self.probe.classify(self.encoder(batch.global_views[0]))

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Those of every method, and of the online probe."""
        groups = super().parameter_groups()
        if self.probe is None:
            return groups
        own = list(self.probe.parameters())
        return {**groups, "head": [each for each in groups["head"] if each not in set(own)], "probe": own}


class SelfDistillation(JointEmbedding):
    """A student, and a teacher that is the moving average of its encoder and projector."""

    def __init__(self, encoder: nn.Module, config: TeacherOptions, task: Task) -> None:
        super().__init__(encoder, config, task)
        self.momentum = config.momentum, config.final_momentum
        self.evaluates_teacher = config.features == "teacher"
        # In training mode like the student: both normalise by the statistics of their batch.
        self.teacher_encoder = copy.deepcopy(self.encoder).requires_grad_(False)
        self.teacher_projector = copy.deepcopy(self.projector).requires_grad_(False)

    @torch.no_grad()
    def teach(self, view: Tensor) -> Tensor:
        """(B, D) projections of the teacher."""
        projections: Tensor = self.teacher_projector(self.teacher_encoder(view))
        return projections

    def momentum_after(self, step: int) -> float:
        """How much of the teacher stays at the update after `step` optimizer steps."""
        return momentum_at(step - 1, self.task.steps, *self.momentum)

    def after_fit_step(self, step: int) -> None:
        """Move the teacher towards the student."""
        momentum = self.momentum_after(step)
        update_ema(self.teacher_encoder, self.encoder, momentum)
        update_ema(self.teacher_projector, self.projector, momentum)

    def encode(self, images_BCHW: Tensor) -> Tensor:
        """(B, F) features of the teacher or the student; call it in evaluation mode."""
        features: Tensor = (self.teacher_encoder if self.evaluates_teacher else self.encoder)(images_BCHW)
        return features


def require_views(batch: Batch, count: int) -> list[Tensor]:
    """The global views of the batch; raises ConfigError when there are fewer than `count`."""
    if len(batch.global_views) < count:
        problem = f"{len(batch.global_views)} is not allowed; this method compares {count} views of an image"
        raise ConfigError(f"views.global_views: {problem}")
    return batch.global_views
