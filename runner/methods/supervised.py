"""Supervised classification: the ceiling that self-supervised features are compared with."""

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from runner.batch import Batch
from runner.errors import ConfigError
from runner.method import Method, Task
from runner.schema import Options

IN_BATCH_NEGATIVES = False
LOCAL_VIEWS = False


class Config(Options):
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of the target that is spread evenly over all classes."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """What `embed` gives."""
        return ("features", "scores")


def build(config: Config, encoder: nn.Module, task: Task) -> "Supervised":
    """Raises ConfigError for data without classes."""
    if not task.classes:
        raise ConfigError("method.name: supervised needs data with classes, and these have none")
    return Supervised(config, encoder, len(task.classes))


class Supervised(Method):
    def __init__(self, config: Config, encoder: nn.Module, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.classifier = nn.Linear(int(encoder.width), classes)  # type: ignore[arg-type]
        self.label_smoothing = config.label_smoothing

    def compute_loss(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor | float]]:
        """Cross entropy over all global views, and the share of right answers."""
        if batch.labels is None:
            raise ConfigError("method.name: supervised needs labelled data, and these samples have no labels")
        logits_NC = torch.cat([self.classifier(self.encoder(view)) for view in batch.global_views]).float()
        wanted_N = batch.labels.repeat(len(batch.global_views))
        with torch.no_grad():
            right = (logits_NC.argmax(1) == wanted_N).float().mean()
        return F.cross_entropy(logits_NC, wanted_N, label_smoothing=self.label_smoothing), {"top1": right}

    def encode(self, images_BCHW: Tensor) -> Tensor:
        features: Tensor = self.encoder(images_BCHW)
        return features

    def predict(self, batch: Batch) -> Tensor:
        logits_BC: Tensor = self.classifier(self.encoder(batch.global_views[0]))
        return logits_BC
