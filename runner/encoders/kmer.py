"""Counts of amino acids and of pairs of them, standardised, and a small network on top: for CPUs and as a baseline.

Shapes: B sequences, L residues, N sequences of a training set.
"""

from typing import cast

import torch
from pydantic import Field
from torch import Tensor, nn

from runner.encoders._tokens import check_amino_acids
from runner.proteins.kmers import WIDTH, expected_statistics, kmer_features
from runner.schema import Options

KIND = "records"


class Config(Options):
    hidden: int | None = Field(default=512, ge=1)
    """Width of the hidden layer. None: the 881 standardised counts are the features, and nothing is trained."""

    width: int = Field(default=256, ge=1)
    """Width of the features, where there is a hidden layer."""

    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of the standardised counts, and of the hidden layer, that a training step leaves out."""


class Kmer(nn.Module):
    """(x - mean) / std of the 881 counts, then linear, layer norm, ReLU, linear.

    Mean and standard deviation are buffers: those of random sequences, until `fit` takes a training set's.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        mean, std = expected_statistics()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.width = WIDTH if config.hidden is None else config.width
        self.body = nn.Identity() if config.hidden is None else _network(config.hidden, config.width, config.dropout)

    @torch.no_grad()
    def fit(self, tokens_NL: Tensor) -> None:
        """Standardise by these sequences; what is the same in all of them is only centred."""
        # Part by part: the counts of all pairs take far more memory than the tokens.
        features_NK = torch.cat([kmer_features(part_NL) for part_NL in torch.split(tokens_NL, 1024)]).double()
        std = features_NK.std(0, correction=0)
        self.mean.copy_(features_NK.mean(0))
        self.std.copy_(torch.where(std > 1e-8, std, 1.0))

    def forward(self, tokens_BL: Tensor) -> Tensor:
        """(B, width) features."""
        with torch.no_grad():
            standard = (kmer_features(tokens_BL) - self.mean) / self.std
        return cast(Tensor, self.body(standard))


def _network(hidden: int, width: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Dropout(dropout),
        nn.Linear(WIDTH, hidden),
        nn.LayerNorm(hidden),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, width),
    )


def build(config: Config, vocabulary: int) -> Kmer:
    """The counts do not depend on the vocabulary: tokens beyond the twenty amino acids are no kind of their own."""
    check_amino_acids("kmer", vocabulary)
    return Kmer(config)
