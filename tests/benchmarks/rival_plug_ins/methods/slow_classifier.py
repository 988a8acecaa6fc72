"""A classifier whose steps take a tenth of a second, and which logs every step it does."""

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from runner.batch import Batch
from runner.method import Method, Task
from runner.schema import Options

KIND = "records"
IN_BATCH_NEGATIVES = False
BEFORE_SECONDS, FORWARD_SECONDS, BACKWARD_SECONDS = 0.04, 0.02, 0.04


class Config(Options):
    log: str
    """Folder with one file a rank: a row {"time", "step", "loss", "batch", "pid"} for each step done."""


def build(config: Config, encoder: nn.Module, task: Task) -> "SlowClassifier":
    return SlowClassifier(config, encoder, task)


class _SlowBackward(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        time.sleep(BACKWARD_SECONDS)
        return gradient


class SlowClassifier(Method):
    def __init__(self, config: Config, encoder: nn.Module, task: Task) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(128, 10)
        self.log = Path(config.log) / f"rank_{task.group.rank}.jsonl"
        self.row: dict[str, Any] = {}

    def compute_loss(self, batch: Batch, step: int) -> Tensor:
        time.sleep(BEFORE_SECONDS)
        features_BD = self.encoder(batch.columns["vectors"])
        time.sleep(FORWARD_SECONDS)
        loss = F.cross_entropy(self.head(_SlowBackward.apply(features_BD)), batch.labels)
        assert batch.ids is not None
        self.row = {"loss": loss.item(), "batch": hashlib.sha1(batch.ids.numpy().tobytes()).hexdigest()[:12]}
        return loss

    def after_fit_step(self, step: int) -> None:
        with self.log.open("a") as file:
            file.write(json.dumps({"time": time.time(), "step": step, "pid": os.getpid(), **self.row}) + "\n")
