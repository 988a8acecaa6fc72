"""What a tile of similarities contributes to a loss, and its derivative with respect to them, in closed form.

S is in bits here (logits divided by log 2): exp2 is the exponential that processors compute, and on CPUs several
times as fast as exp. A tile is (sides, I, J): S_ij first, then its mirror S_ji.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from runner.losses.tiles import Tile

LN2 = math.log(2)


def sigmoid_slope_(
    t: Tensor, gamma: float, cutoff: float | None, tile: Tile, counted: int, spare: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """The summed modulated sigmoid loss of a tile of logits (in nats), and its derivative, which replaces them.

    A negative with logit t costs p^gamma softplus(t) with p = sigmoid(t); the derivative is
    p^gamma (p + gamma softplus(t) (1 - p)), because the modulation is not detached. A positive is a negative
    with logit -t. Finite everywhere: p^gamma is exp(gamma log p), never a power of a rounded difference.
    With a cutoff, negatives with t <= cutoff cost nothing and the rest plain softplus(t).

    `counted` is how many of the two sides belong to the loss of this rank; the slopes are of both.
    """
    losses, weight, _ = spare
    if tile.diagonal:
        positives = t.diagonal(dim1=1, dim2=2)
        flipped = positives.neg()
    if cutoff is not None:
        gamma = 0.0
        torch.nn.functional.threshold_(t, cutoff, -math.inf)
    if tile.diagonal:
        positives.copy_(flipped)

    torch.ops.aten.softplus.out(t, 1, 40, out=losses)
    if gamma not in (0.0, 1.0):
        torch.sub(t, losses, out=weight).mul_(gamma / LN2).exp2_()
    slope = t.sigmoid_()
    if gamma:
        weight = slope if gamma == 1.0 else weight
        losses *= weight
    total = losses[:counted].sum(-1).sum(dtype=torch.float64)
    if gamma:
        # p^gamma p + gamma L (1 - p), as an interpolation between gamma L and p^gamma
        torch.lerp(losses if gamma == 1.0 else losses.mul_(gamma), weight, slope, out=slope)
    if tile.diagonal:
        positives.neg_()
    return total, slope


class Statistics(NamedTuple):
    """What the softmax terms need to know of all rows and columns, in bits; each (n,)."""

    row: Tensor
    """r_i = log sum_j exp S_ij."""

    column: Tensor
    """c_i = log sum_j exp S_ji."""

    mismatch: Tensor
    """m_i = mean of S_ji - S_ij under the softmax of column i."""


class LogSum:
    """log sum exp of rows that arrive tile by tile, and optionally a mean under that softmax."""

    def __init__(self, like: Tensor, count: int) -> None:
        self.peak = like.new_full((count,), -math.inf)
        self.total = like.new_zeros(count)
        self.weighted = like.new_zeros(count)

    def add(self, rows: slice, S_IJ: Tensor, dim: int, spare: Tensor, values_IJ: Tensor | None = None) -> None:
        """Sum along `dim` into `rows`; the running maximum is the reference, so that no scale overflows."""
        peak = torch.maximum(self.peak[rows], S_IJ.amax(dim))
        shrink = (self.peak[rows] - peak).exp2_()
        powers = torch.sub(S_IJ, peak.unsqueeze(dim), out=spare).exp2_()
        self.peak[rows] = peak
        self.total[rows] = self.total[rows] * shrink + powers.sum(dim)
        if values_IJ is not None:
            self.weighted[rows] = self.weighted[rows] * shrink + powers.mul_(values_IJ).sum(dim)

    def log(self) -> Tensor:
        return self.total.log2() + self.peak

    def mean(self) -> Tensor:
        return self.weighted / self.total


def softmax_slope(
    S: Tensor, cross_entropy: float, invariance: float, statistics: Statistics, tile: Tile, spare: list[Tensor]
) -> Tensor:
    """N times the derivative of the weighted softmax terms, in one of the spare buffers.

    With P = softmax of rows and A_ij = exp(S_ji - c_i) = softmax of columns, transposed:
    cross entropy   CE = mean_i(r_i - S_ii)         N dCE/dS_ij = P_ij - [i = j]
    invariance      KL(A || P) = mean(m - c + r)    N dKL/dS_ij = P_ij - A_ij + A_ji (S_ij - S_ji - m_j)
    """
    slope, powers, values = spare
    I, J = tile.rows, tile.columns
    row = statistics.row - math.log2(cross_entropy + invariance)
    torch.sub(S[0], row[I, None], out=slope[0])
    if len(S) == 2:
        torch.sub(S[1], row[J], out=slope[1])
    slope.exp2_()
    if invariance:
        column = statistics.column - math.log2(invariance)
        torch.sub(S[0], column[J], out=powers[0])
        torch.sub(S[1], column[I, None], out=powers[1])
        powers.exp2_()
        torch.sub(S[0], S[1], out=values[0]).sub_(statistics.mismatch[J])
        torch.sub(S[1], S[0], out=values[1]).sub_(statistics.mismatch[I, None])
        slope.addcmul_(powers, values, value=LN2)
        slope[0] -= powers[1]
        slope[1] -= powers[0]
    if tile.diagonal:
        slope.diagonal(dim1=1, dim2=2).sub_(cross_entropy)
    return slope
