"""A linear classifier that trains beside a self-supervised method, on features it sends no gradient into.

Shapes: B samples on this rank, F features, C classes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from runner.errors import ConfigError


class OnlineProbe(nn.Module):
    """Its cross entropy and accuracy cost next to nothing and show early whether a run learns anything."""

    def __init__(self, inputs: int, classes: Sequence[str]) -> None:
        """Raises ConfigError for data without classes."""
        super().__init__()
        if not classes:
            raise ConfigError("method.online_probe: true needs data with classes, and these have none")
        self.linear = nn.Linear(inputs, len(classes))

    def classify(self, features_BF: Tensor) -> Tensor:
        """(B, C) logits; no gradient reaches the features."""
        logits_BC: Tensor = self.linear(features_BF.detach())
        return logits_BC

    def forward(self, views: Sequence[Tensor], labels_B: Tensor | None) -> tuple[Tensor, dict[str, Tensor | float]]:
        """Cross entropy, mean over the (B, F) features of each view, and the share of right answers.

        Raises ConfigError for samples without labels.
        """
        if labels_B is None:
            raise ConfigError("method.online_probe: true needs labelled data, and these images have no labels")
        logits_NC = torch.cat([self.classify(view) for view in views])
        wanted_N = labels_B.repeat(len(views))
        with torch.no_grad():
            right = (logits_NC.argmax(1) == wanted_N).float().mean()
        return F.cross_entropy(logits_NC.float(), wanted_N), {"probe_top1": right}
