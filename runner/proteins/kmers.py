"""What amino acids and pairs of them a protein is made of: 881 numbers that need no training.

Shapes: B sequences, L residues, A = 20 amino acids, K = 881 features.
"""

import math

import torch
from torch import Tensor

from runner.proteins.alphabet import TWENTY, lengths

A = len(TWENTY)
WINDOWS = 20, 60, -20, None
"""Stretches whose composition counts: the first 20 and 60 residues, the last 20, all."""

PAIR_WINDOW = 80
WIDTH = len(WINDOWS) * A + 2 * A * A + 1

FREQUENCIES = (
    *(0.0757, 0.0235, 0.0522, 0.0650, 0.0375, 0.0770, 0.0223, 0.0449, 0.0596, 0.0913),
    *(0.0209, 0.0406, 0.0583, 0.0409, 0.0512, 0.0785, 0.0538, 0.0642, 0.0126, 0.0300),
)
"""Of the twenty amino acids in the shipped proteins, in the order of their letters."""

TYPICAL_LENGTH = 282
"""Geometric mean of the lengths of the shipped proteins."""


def kmer_features(tokens_BL: Tensor) -> Tensor:
    """(B, 881) float32: composition of four windows, pairs of neighbours in two, logarithm of the length.

    Compositions and pairs are frequencies: shares of the residues, or pairs, of the window. Other residues than
    the twenty count in the length of a window alone.
    """
    tokens_BL = tokens_BL.long()
    length_B1 = lengths(tokens_BL)[:, None].clamp(min=1)
    # Each window is cut out first: counting takes time for every column, also for those that do not count.
    parts = [_frequencies(_cut(tokens_BL, length_B1, window) - 1, A) for window in WINDOWS]
    for window in (PAIR_WINDOW, None):
        first_BL, second_BL = tokens_BL[:, :window][:, :-1] - 1, tokens_BL[:, :window][:, 1:] - 1
        pairs_BL = torch.where((first_BL < A) & (second_BL < A), first_BL * A + second_BL, A * A)
        parts.append(_frequencies(pairs_BL.where((first_BL >= 0) & (second_BL >= 0), -1), A * A))
    return torch.cat([*parts, length_B1.float().log()], 1)


def _cut(tokens_BL: Tensor, length_B1: Tensor, window: int | None) -> Tensor:
    """The first `window` tokens of each sequence, or the last -window with padding before those that are shorter."""
    if window is None or window > 0:
        return tokens_BL[:, :window]
    place_BK = length_B1 + torch.arange(window, 0, device=tokens_BL.device)
    return tokens_BL.gather(1, place_BK.clamp(min=0)).where(place_BK >= 0, 0)


def expected_statistics() -> tuple[Tensor, Tensor]:
    """(K,) mean and (K,) standard deviation of the features of random sequences with `FREQUENCIES`.

    What features are measured by before any protein is seen: each residue drawn on its own, a protein of 282.
    """
    singles_A = torch.tensor(FREQUENCIES, dtype=torch.float64)
    pairs_P = torch.outer(singles_A, singles_A).flatten()
    sizes = [abs(window or TYPICAL_LENGTH) for window in WINDOWS]
    groups = [(singles_A, size) for size in sizes] + [(pairs_P, PAIR_WINDOW - 1), (pairs_P, TYPICAL_LENGTH - 1)]
    mean = torch.cat([shares for shares, _ in groups] + [torch.tensor([math.log(TYPICAL_LENGTH)])])
    std = torch.cat([(shares * (1 - shares) / size).sqrt() for shares, size in groups] + [torch.ones(1)])
    return mean.float(), std.float()


def _frequencies(kinds_BL: Tensor, kinds: int) -> Tensor:
    """(B, kinds) share of each kind; kinds beyond the last only count in the total, -1 counts nothing."""
    counted_BL = kinds_BL >= 0
    bins_BL = torch.where(counted_BL, kinds_BL.clamp(max=kinds), kinds)
    counts = torch.zeros(len(kinds_BL), kinds + 1, device=kinds_BL.device)
    counts = counts.scatter_add(1, bins_BL, counted_BL.float())
    return counts[:, :kinds] / counted_BL.sum(1, keepdim=True).clamp(min=1)
