"""Heads that score every residue for every class: where on a protein its sorting signals are.

Each class has a decoder of its own, as in MUTarget (Jiang et al.); they are computed together, as groups of channels.

Shapes: B sequences, L residues, D features of a residue, C classes, H channels of each class.
"""

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

DecoderType = Literal["linear", "cnn", "cnn-linear"]


class LinearDecoder(nn.Module):
    """A weight for each feature of the residue itself."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, classes)

    def forward(self, residues_BLD: Tensor) -> Tensor:
        """(B, L, C) logits."""
        logits_BLC: Tensor = self.linear(residues_BLD)
        return logits_BLC


class CNNDecoder(nn.Module):
    """A convolution over the residues around; what is padding must be 0, so that it adds nothing."""

    def __init__(self, inputs: int, classes: int, kernel: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(inputs, classes, kernel, padding="same")

    def forward(self, residues_BLD: Tensor) -> Tensor:
        """(B, L, C) logits."""
        logits_BLC: Tensor = self.convolution(residues_BLD.transpose(1, 2)).transpose(1, 2)
        return logits_BLC


class CNNLinearDecoder(nn.Module):
    """For each class a convolution to H channels, ReLU, dropout, and a weight for each channel."""

    def __init__(self, inputs: int, classes: int, kernel: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(inputs, classes * hidden, kernel, padding="same")
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Conv1d(classes * hidden, classes, 1, groups=classes)

    def forward(self, residues_BLD: Tensor) -> Tensor:
        """(B, L, C) logits."""
        hidden_BKL = self.dropout(F.relu(self.convolution(residues_BLD.transpose(1, 2))))
        logits_BLC: Tensor = self.linear(hidden_BKL).transpose(1, 2)
        return logits_BLC


def build_decoder(
    kind: DecoderType, inputs: int, classes: int, *, kernel: int = 15, hidden: int = 32, dropout: float = 0.1
) -> nn.Module:
    """A decoder with random weights."""
    if kind == "linear":
        return LinearDecoder(inputs, classes)
    if kind == "cnn":
        return CNNDecoder(inputs, classes, kernel)
    return CNNLinearDecoder(inputs, classes, kernel, hidden, dropout)
