"""Heads that map features to the space in which a loss compares them.

Shapes: B samples, D inputs, P projections.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HeadType = Literal["linear", "nonlinear"]


class LinearHead(nn.Module):
    """LayerNorm(p + dropout(W gelu(p))), where p is the projection of the input.

    Source of this and the next head: ContraBin (Zhang et al. 2022, arXiv:2210.05102).
    """

    def __init__(self, inputs: int, width: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.projection = nn.Linear(inputs, width)
        self.fc = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.layer_norm = nn.LayerNorm(width)

    def forward(self, x_BD: Tensor) -> Tensor:
        """(B, P)."""
        p_BP = self.projection(x_BD)
        out_BP: Tensor = self.layer_norm(p_BP + self.dropout(self.fc(F.gelu(p_BP))))
        return out_BP

    def start_from(self, weight_PD: Tensor, bias_P: Tensor) -> None:
        """Be this affine map and the layer norm, until training refines it."""
        _start(self.projection, weight_PD, bias_P, refinement=self.fc)


class NonlinearHead(nn.Module):
    """LayerNorm(p + dropout(W2 gelu(W1 gelu(p)))): one layer more than the linear head."""

    def __init__(self, inputs: int, width: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.projection = nn.Linear(inputs, width)
        self.fc1 = nn.Linear(width, width)
        self.fc2 = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.layer_norm = nn.LayerNorm(width)

    def forward(self, x_BD: Tensor) -> Tensor:
        """(B, P)."""
        p_BP = self.projection(x_BD)
        refined_BP = self.fc2(F.gelu(self.fc1(F.gelu(p_BP))))
        out_BP: Tensor = self.layer_norm(p_BP + self.dropout(refined_BP))
        return out_BP

    def start_from(self, weight_PD: Tensor, bias_P: Tensor) -> None:
        """Be this affine map and the layer norm, until training refines it."""
        _start(self.projection, weight_PD, bias_P, refinement=self.fc2)


@torch.no_grad()
def _start(projection: nn.Linear, weight_PD: Tensor, bias_P: Tensor, refinement: nn.Linear) -> None:
    projection.weight.copy_(weight_PD)
    projection.bias.copy_(bias_P)
    refinement.weight.zero_()
    refinement.bias.zero_()


def build_head(kind: HeadType, inputs: int, width: int, dropout: float = 0.1) -> LinearHead | NonlinearHead:
    """A head with random weights."""
    return (LinearHead if kind == "linear" else NonlinearHead)(inputs, width, dropout)


class LayerNormProjection(nn.Module):
    """Three linear layers with layer norm between them: the LayerNormNet of CLEAN (Yu et al. 2023).

    Linear, layer norm, dropout, ReLU; the same again; linear. (Dropout and ReLU may change places: they commute.)
    """

    def __init__(self, inputs: int, hidden: int = 512, outputs: int = 256, dropout: float = 0.1) -> None:
        super().__init__()
        self.fc1, self.ln1 = nn.Linear(inputs, hidden), nn.LayerNorm(hidden)
        self.fc2, self.ln2 = nn.Linear(hidden, hidden), nn.LayerNorm(hidden)
        self.fc3 = nn.Linear(hidden, outputs)
        self.dropout = nn.Dropout(dropout)
        self.width = outputs

    def forward(self, features_BD: Tensor) -> Tensor:
        """(B, outputs), not normalised."""
        x = F.relu(self.dropout(self.ln1(self.fc1(features_BD))))
        x = F.relu(self.dropout(self.ln2(self.fc2(x))))
        projected: Tensor = self.fc3(x)
        return projected


def build_mlp(widths: Sequence[int], batch_norm: bool = True, last_norm: bool = False) -> nn.Sequential:
    """Linear layers from width to width with batch norm and ReLU between them; the last one without bias.

    `last_norm` adds batch norm, without scale and shift, behind the last layer.
    """
    layers = nn.Sequential()
    *between, (inputs, outputs) = pairwise(widths)
    for before, after in between:
        layers.append(nn.Linear(before, after, bias=not batch_norm))
        if batch_norm:
            layers.append(nn.BatchNorm1d(after))
        layers.append(nn.ReLU(inplace=True))
    layers.append(nn.Linear(inputs, outputs, bias=False))
    if last_norm:
        layers.append(nn.BatchNorm1d(outputs, affine=False))
    return layers
