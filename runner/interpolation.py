"""Learnt points on the segment between two embeddings: the intermediate views of ContraBin.

Source: simplex interpolation of ContraBin (Zhang et al. 2022, arXiv:2210.05102).

Shapes: B samples, D embedding width.
"""

import torch
from torch import Tensor, nn

from runner.projection import LinearHead, NonlinearHead


def interpolate(h1_BD: Tensor, h2_BD: Tensor, weight: Tensor) -> Tensor:
    """weight * h1 + (1 - weight) * h2; the weight is (B, 1), one for a sample, or (B, D), one for a number."""
    return weight * h1_BD + (1 - weight) * h2_BD


class LinearInterpolation(nn.Module):
    """One weight for each sample, computed from the sum of both embeddings."""

    def __init__(self, width: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.head = LinearHead(width, width, dropout)
        self.gate = nn.Linear(width, 1)

    def forward(self, h1_BD: Tensor, h2_BD: Tensor) -> Tensor:
        """(B, D) between h1 and h2."""
        return interpolate(h1_BD, h2_BD, self.weigh(h1_BD, h2_BD))

    def weigh(self, h1_BD: Tensor, h2_BD: Tensor) -> Tensor:
        """(B, 1) in 0..1: how much of h1 is taken."""
        return torch.sigmoid(self.gate(self.head(h1_BD + h2_BD)))


class NonlinearInterpolation(nn.Module):
    """One weight for each number of each sample, so that the result lies in the box between both embeddings."""

    def __init__(self, width: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.head = NonlinearHead(width, width, dropout)
        self.gate = nn.Linear(width, width)

    def forward(self, h1_BD: Tensor, h2_BD: Tensor) -> Tensor:
        """(B, D) between h1 and h2."""
        return interpolate(h1_BD, h2_BD, self.weigh(h1_BD, h2_BD))

    def weigh(self, h1_BD: Tensor, h2_BD: Tensor) -> Tensor:
        """(B, D) in 0..1: how much of h1 is taken."""
        return torch.sigmoid(self.gate(self.head(h1_BD + h2_BD)))
