"""DINO: match the prototypes a teacher assigns to other views (Caron et al. 2021, arXiv:2104.14294).

Shapes: B samples on this rank, V views of which the first T are global, K prototypes.
"""

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from runner.batch import Batch
from runner.losses.dino import dino, teacher_temperature, update_centre
from runner.method import Task
from runner.methods._joint_embedding import SelfDistillation, TeacherOptions, Width

IN_BATCH_NEGATIVES = False
GLOBAL_VIEWS = (2, None)


class Config(TeacherOptions):
    projector_widths: tuple[Width, ...] = Field((512, 128, 1024), min_length=1)
    """Widths of the projector's layers after the encoder's; the last one is the number of prototypes."""

    student_temperature: float = Field(0.1, gt=0)
    """Of the student's softmax."""

    teacher_temperature: float = Field(0.07, gt=0)
    """Of the teacher's softmax, after the warm-up."""

    warmup_teacher_temperature: float = Field(0.04, gt=0)
    """Of the teacher's softmax in the first epoch."""

    warmup_epochs: int = Field(30, ge=1)
    """Epochs over which the teacher's temperature rises."""

    centre_momentum: float = Field(0.9, ge=0, lt=1)
    """How much of the centre stays at an update."""

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        if self.warmup_teacher_temperature > self.teacher_temperature:
            problem = f"{self.warmup_teacher_temperature} is above teacher_temperature {self.teacher_temperature}"
            raise ValueError(f"warmup_teacher_temperature: {problem}")
        return self


def build(config: Config, encoder: nn.Module, task: Task) -> "DINO":
    return DINO(config, encoder, task)


class DINO(SelfDistillation):
    centre: Tensor
    started: Tensor

    def __init__(self, config: Config, encoder: nn.Module, task: Task) -> None:
        super().__init__(encoder, config, task)
        self.config = config
        self.register_buffer("centre", torch.zeros(self.width))
        self.register_buffer("started", torch.zeros((), dtype=torch.int64))
        # Of the micro-batches of one step, so nothing to save.
        self.assigned: list[Tensor] = []

    def compare(self, batch: Batch, features: list[Tensor], step: int) -> dict[str, Tensor]:
        """The loss between the global views of the teacher and all other views of the student."""
        local = [self.encoder(view) for view in batch.local_views]
        student_BVK = torch.stack([self.projector(view) for view in [*features, *local]], 1)
        teacher_BTK = torch.stack([self.teach(view) for view in batch.global_views], 1)
        if self.training:
            self.assigned.append(teacher_BTK)
        temperature = self.teacher_temperature_at(step)
        loss = dino(
            student_BVK,
            teacher_BTK,
            self.centre,
            self.group,
            teacher_temperature=temperature,
            student_temperature=self.config.student_temperature,
        )
        return {"ssl_loss": loss}

    def teacher_temperature_at(self, step: int) -> float:
        """Of the epoch that a step belongs to."""
        config = self.config
        epoch = step // self.task.steps_per_epoch
        return teacher_temperature(
            epoch, config.warmup_teacher_temperature, config.teacher_temperature, config.warmup_epochs
        )

    def before_fit_step(self, step: int) -> None:
        self.assigned = []

    def after_fit_step(self, step: int) -> None:
        """Move the teacher, and the centre towards what the teacher assigned in this step."""
        super().after_fit_step(step)
        update_centre(self.centre, self.started, torch.cat(self.assigned), self.group, self.config.centre_momentum)
