"""RankMe: how many dimensions the features use, without labels.

Source: Garrido et al. 2023, "RankMe: Assessing the Downstream Performance of Pretrained Self-Supervised
Representations by Their Rank", equation 1.

Shapes: N samples, D features.
"""

import torch
from pydantic import Field
from torch import Tensor

from runner.features import FrozenFeatures
from runner.schema import Options

FITS = False
"""Looks at the test split alone."""


class Config(Options):
    max_samples: int = Field(default=25_600, ge=1)
    """Of more samples, so many are drawn, as in the paper."""

    eps: float = Field(default=1e-7, gt=0)
    """Added to every normalised singular value."""


def run(
    config: Config, train: FrozenFeatures | None, test: FrozenFeatures, device: torch.device, seed: int
) -> dict[str, float]:
    """The effective rank of the features of `test`, from 1 to their width."""
    features_ND = test.features
    if len(features_ND) > config.max_samples:
        order_N = torch.randperm(len(features_ND), generator=torch.Generator().manual_seed(seed))
        features_ND = features_ND[order_N[: config.max_samples].to(features_ND.device)]
    return {"rankme": rankme(features_ND.to(device), config.eps).item()}


@torch.no_grad()
def rankme(features_ND: Tensor, eps: float = 1e-7) -> Tensor:
    """exp(-sum p log p) with p = s / sum(s) + eps and s the singular values; 0-d, without gradient."""
    with torch.autocast(features_ND.device.type, enabled=False):
        values_K: Tensor = torch.linalg.svdvals(features_ND.float())
        p_K = values_K / values_K.sum().clamp(min=torch.finfo(values_K.dtype).tiny) + eps
        return torch.exp(-(p_K * p_K.log()).sum())
