"""What a tile of similarities adds to a loss, and the derivative with respect to them, in closed form.

A tile is (sides, I, J): the similarities S_ij and, where `sides` is 2, their mirrors S_ji. They are in bits
(logits divided by log 2), because exp2 is what processors compute; on CPUs it takes a quarter of exp's time.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from runner.losses.tiles import Tile

LN2 = math.log(2)


def sigmoid_slope_(
    logits: Tensor,
    gamma: float,
    cutoff: float | None,
    diagonal: bool,
    losses: Tensor,
    weight: Tensor,
) -> Tensor:
    """The modulated sigmoid loss of a tile of logits (in nats), which its derivative replaces in place.

    A negative of logit t and p = sigmoid(t) costs p^gamma softplus(t). The modulation p^gamma is not
    detached, so the derivative is p^gamma (p + gamma softplus(t) (1 - p)). A positive of t costs what
    a negative of -t does. p^gamma is exp(gamma log p), finite with its derivative for every gamma and t.
    With a cutoff, negatives up to that logit cost nothing and the other pairs plain softplus.

    Returns the sum per side in float64. `losses` and `weight` are scratch.
    """
    if diagonal:
        positives = logits.diagonal(dim1=1, dim2=2)
        mirrored = -positives
    if cutoff is not None:
        F.threshold(logits, cutoff, -math.inf, inplace=True)
        gamma = 0.0
    if diagonal:
        positives.copy_(mirrored)

    torch.ops.aten.softplus.out(logits, 1, 40, out=losses)
    if gamma not in (0.0, 1.0):
        torch.sub(logits, losses, out=weight).mul_(gamma / LN2).exp2_()
    p = logits.sigmoid_()
    if gamma == 1.0:
        weight = p
    if gamma != 0.0:
        losses.mul_(weight)
    total = losses.sum(-1).sum(-1, dtype=torch.float64)
    if gamma != 0.0:
        # the derivative is an interpolation: p^gamma p + gamma loss (1 - p)
        torch.lerp(losses.mul_(gamma), weight, p, out=p)
    if diagonal:
        positives.neg_()
    return total


class Statistics(NamedTuple):
    """What the softmax terms need to know of every row and column of S; each (N,), in bits."""

    row: Tensor
    """r_i = log sum_j exp S_ij."""

    column: Tensor
    """c_i = log sum_j exp S_ji."""

    mismatch: Tensor
    """m_i = the mean of S_ji - S_ij under the softmax of column i."""


def nothing(S: Tensor) -> float:
    """What to put in the place of a similarity that does not count: its power is 0, and so is its slope.

    Not minus infinity, which would make nan of a row that has nothing else yet.
    """
    return torch.finfo(S.dtype).min / 4


class LogSum:
    """log sum exp of rows that arrive tile by tile, and the mean of other values under that softmax."""

    def __init__(self, rows: int, like: Tensor) -> None:
        self.peak = like.new_full((rows,), -math.inf)
        self.total = like.new_zeros(rows)
        self.weighted = like.new_zeros(rows)

    def add(self, rows: slice, S: Tensor, dim: int, powers: Tensor, values: Tensor | None = None) -> None:
        """Sum a tile along `dim` into `rows`; relative to the running maximum, so that no scale overflows."""
        peak = torch.maximum(self.peak[rows], S.amax(dim))
        shrink = (self.peak[rows] - peak).exp2_()
        torch.sub(S, peak.unsqueeze(dim), out=powers).exp2_()
        self.peak[rows] = peak
        self.total[rows] = self.total[rows] * shrink + powers.sum(dim)
        if values is not None:
            self.weighted[rows] = self.weighted[rows] * shrink + powers.mul_(values).sum(dim)

    def log(self) -> Tensor:
        return self.total.log2() + self.peak

    def mean(self) -> Tensor:
        return self.weighted / self.total


def softmax_slope(
    S: Tensor,
    cross_entropy: float,
    column_cross_entropy: float,
    invariance: float,
    statistics: Statistics,
    tile: Tile,
    out: Tensor,
    powers: Tensor,
    values: Tensor,
) -> Tensor:
    """N times the derivative of the weighted softmax terms, for as many sides as `out` has.

    With P the softmax of the rows of S and Q_ij = exp(S_ji - c_i) that of its columns, transposed:
    cross entropy   mean(r_i - S_ii)                  derivative P_ij - [i = j]
    of columns      mean(c_j - S_jj)                  derivative Q_ji - [i = j]
    invariance      KL(Q || P) = mean(m - c + r)      derivative P_ij - Q_ij + Q_ji (S_ij - S_ji - m_j)

    `powers` and `values` are scratch of the shape of S, which has both sides if there is an invariance term.
    """
    sides = len(out)
    rows, columns = tile.rows, tile.columns
    assert cross_entropy + invariance > 0, "swap x and y"
    row = statistics.row - math.log2(cross_entropy + invariance)
    torch.sub(S[0], row[rows, None], out=out[0])
    if sides == 2:
        torch.sub(S[1], row[columns], out=out[1])
    out.exp2_()
    if invariance or column_cross_entropy:
        weight = invariance or column_cross_entropy
        column = statistics.column - math.log2(weight)
        torch.sub(S[0], column[columns], out=powers[0])
        torch.sub(S[1], column[rows, None], out=powers[1])
        powers.exp2_()
    if column_cross_entropy:
        out.add_(powers[:sides], alpha=column_cross_entropy / weight)
    if invariance:
        torch.sub(S[0], S[1], out=values[0]).sub_(statistics.mismatch[columns])
        if sides == 2:
            torch.sub(S[1], S[0], out=values[1]).sub_(statistics.mismatch[rows, None])
        out.addcmul_(powers[:sides], values[:sides], value=LN2)
        out[0] -= powers[1]
        if sides == 2:
            out[1] -= powers[0]
    if tile.diagonal:
        out.diagonal(dim1=1, dim2=2).sub_(cross_entropy + column_cross_entropy)
    return out
