"""MoCo v2: find the other view among the keys of past batches (He et al. 2020; Chen et al. 2020, arXiv:2003.04297)."""

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from runner.batch import Batch
from runner.losses.info_nce import info_nce
from runner.method import Task
from runner.methods._joint_embedding import SelfDistillation, TeacherOptions
from runner.queue import Queue

IN_BATCH_NEGATIVES = False
GLOBAL_VIEWS, LOCAL_VIEWS = (2, 2), False


class Config(TeacherOptions):
    momentum: float = Field(0.999, ge=0, lt=1)
    """How much of the key encoder stays at an update."""

    final_momentum: float = Field(0.999, ge=0, le=1)
    """The same at the end; between them lies half a cosine."""

    queue_size: int = Field(4096, ge=1)
    """Keys of past batches, the negatives of every query."""

    temperature: float = Field(0.2, gt=0)
    """Cosines are divided by it."""


def build(config: Config, encoder: nn.Module, task: Task) -> "MoCo":
    return MoCo(config, encoder, task)


class MoCo(SelfDistillation):
    def __init__(self, config: Config, encoder: nn.Module, task: Task) -> None:
        super().__init__(encoder, config, task)
        self.temperature = config.temperature
        self.queue = Queue(config.queue_size, self.width)
        # Of the micro-batches of one step, so nothing to save.
        self.keys: list[Tensor] = []

    def compare(self, batch: Batch, features: list[Tensor], step: int) -> dict[str, Tensor]:
        query_BD, key_BD = self.projector(features[0]), self.teach(batch.global_views[1])
        if self.training:
            self.keys.append(F.normalize(key_BD.float(), dim=1))
        queue_KD = self.queue.rows
        loss = info_nce(
            query_BD, key_BD, self.temperature, self.group, symmetric=False, queue_KD=queue_KD, in_batch=False
        )
        return {"ssl_loss": loss}

    def before_fit_step(self, step: int) -> None:
        self.keys = []

    def after_fit_step(self, step: int) -> None:
        """Move the key encoder, and put the keys of this step into the queue."""
        super().after_fit_step(step)
        self.queue.enqueue(torch.cat(self.keys), self.group)
