"""The projection heads of ContraBin: a linear map, a refinement that is added to it, layer norm.

Source: ContraBin (Zhang et al. 2022, arXiv:2210.05102).

Shapes: B samples, D inputs, P projections.
"""

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

HeadType = Literal["linear", "nonlinear"]


class LinearHead(nn.Module):
    """LayerNorm(p + dropout(W gelu(p))), where p is the projection of the input."""

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


def build_head(kind: HeadType, inputs: int, width: int, dropout: float = 0.1) -> nn.Module:
    """A head with random weights."""
    return (LinearHead if kind == "linear" else NonlinearHead)(inputs, width, dropout)
