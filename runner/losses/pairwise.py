"""The engine of the losses that compare every row of x with every row of y, without storing the comparisons.

Such a loss is a function of S = x y^T alone. Its gradient is G y for x and G^T x for y, where G = dloss/dS is
known in closed form. So one walk over tiles of S gives the loss and both gradients: a tile is computed, turned
into G in place, multiplied into the gradients and forgotten. Memory is O(N D) plus a few tiles, never N x N;
backward only scales what forward has found. Softmax terms need statistics of whole rows and columns, hence
another walk before that one.

The tile of S at (I, J) and its mirror at (J, I) are visited together, because the invariance term couples S_ij
with S_ji. Both are held as (I, J).

On several ranks each one visits its own rows and its own columns of S, against the gathered rows of the others.
That gives the exact gradient of its own rows, so no gradient is communicated. Everything is divided by the
global N and multiplied by the world size: the mean over ranks is what one process computes.

Shapes: B rows on this rank, N on all ranks, V and T views of x and y, D width, I x J one tile.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from runner.group import Group
from runner.losses.slopes import LN2, LogSum, Statistics, sigmoid_slope_, softmax_slope
from runner.losses.tiles import BLOCK, Tile, Workspace, walk


@dataclass(frozen=True)
class Terms:
    """What is summed over the pairs of rows, and divided by N."""

    gamma: float | None = None
    """Exponent of the modulated sigmoid loss, 0 for the plain one; None leaves the sigmoid loss out."""

    cutoff: float | None = None
    """Leave out negatives whose logit is at most this, and do not modulate the rest."""

    cross_entropy: float = 0.0
    """Weight of the softmax cross entropy of each row of S against its own column."""

    invariance: float = 0.0
    """Weight of KL(softmax of column i || softmax of row i), summed over i."""

    measure_invariance: bool = False
    """Compute that divergence even where its weight is 0."""


class Measured(NamedTuple):
    """A loss, and what was measured on the way."""

    loss: Tensor
    kl: Tensor | None
    """The unweighted invariance term, without gradient; None where it was neither weighted nor asked for."""


def pairwise_loss(
    x_BVD: Tensor,
    y_BTD: Tensor,
    bias: Tensor,
    terms: Terms,
    group: Group,
    pairs: Sequence[tuple[int, int]] = ((0, 0),),
    block: int | None = None,
) -> Measured:
    """The mean of `terms` over pairs of views (v, t), with S = x_v y_t^T; `bias` is added for the sigmoid term.

    Row i of x and row i of y belong to the same sample. Differentiable once in x, y and bias; what needs no
    gradient costs nothing. float32 or float64; the loss is summed in float64.
    """
    assert x_BVD.dtype == y_BTD.dtype == bias.dtype, (x_BVD.dtype, y_BTD.dtype, bias.dtype)
    assert len(x_BVD) == len(y_BTD), (x_BVD.shape, y_BTD.shape)
    block = block or BLOCK.get(x_BVD.device.type, 1024)
    loss, kl = _Pairwise.apply(x_BVD, y_BTD, bias, terms, group, tuple(pairs), block)  # type: ignore[no-untyped-call]
    return Measured(loss, kl)


class _Pairwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_BVD: Tensor,
        y_BTD: Tensor,
        bias: Tensor,
        terms: Terms,
        group: Group,
        pairs: tuple[tuple[int, int], ...],
        block: int,
    ) -> tuple[Tensor, Tensor | None]:
        x_grad, y_grad, bias_grad, *_ = ctx.needs_input_grad
        with_kl = bool(terms.invariance) or terms.measure_invariance
        with_softmax = with_kl or bool(terms.cross_entropy)
        x_NVD, y_NTD = gather_views(x_BVD / LN2, y_BTD, y_grad or with_kl, group)
        B, N = len(x_BVD), len(y_NTD)

        tiles = list(walk(B, N, min(block, N)))
        space = Workspace(x_BVD, min(block, N), kept=len(pairs) * len(tiles) if with_softmax else 0)
        comparisons = [
            Comparison(x_NVD[:, v], y_NTD[:, t], B, tiles, number * len(tiles), space, y_grad or with_kl)
            for number, (v, t) in enumerate(pairs)
        ]
        loss, dbias, kl = x_BVD.new_zeros(3, dtype=torch.float64)
        statistics: list[Statistics | None] = [None] * len(pairs)
        if with_softmax:
            own_BPK = torch.stack([one.statistics(with_kl) for one in comparisons], 1)
            statistics = [Statistics(*of_KN) for of_KN in gather_own_first(own_BPK, group).permute(1, 2, 0).contiguous()]
            row, column, mismatch = own_BPK.sum((0, 1), dtype=torch.float64) * LN2
            kl = mismatch - column + row
            positives = sum(one.positives() for one in comparisons)
            loss = terms.cross_entropy * (row - positives) + terms.invariance * kl

        dx_BVD = torch.zeros_like(x_BVD) if x_grad else None
        dy_BTD = torch.zeros_like(y_BTD) if y_grad else None
        for (v, t), comparison, of_rows in zip(pairs, comparisons, statistics, strict=True):
            dx_BD = dx_BVD[:, v] if dx_BVD is not None else None
            dy_BD = dy_BTD[:, t] if dy_BTD is not None else None
            of_loss, of_bias = comparison.add_gradients(terms, of_rows, bias, dx_BD, dy_BD)
            loss, dbias = loss + of_loss, dbias + of_bias

        ctx.weight = group.world / (N * len(pairs))
        loss, dbias, kl = (part.mul(ctx.weight).to(x_BVD.dtype) for part in (loss, dbias, kl))
        ctx.save_for_backward(dx_BVD, dy_BTD, dbias if bias_grad else None)
        if not with_kl:
            return loss, None
        ctx.mark_non_differentiable(kl)
        return loss, kl

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        dx_BVD, dy_BTD, dbias = ctx.saved_tensors
        weight = grad * ctx.weight
        return (
            None if dx_BVD is None else dx_BVD * weight,
            None if dy_BTD is None else dy_BTD * weight,
            None if dbias is None else dbias * grad,
            *[None] * 4,
        )


@dataclass(frozen=True)
class Comparison:
    """One view of x against one of y: S = x y^T in bits, tile by tile."""

    x_ND: Tensor
    """In units of log 2; own rows first. Only own rows are there if not mirrored."""

    y_ND: Tensor
    own: int
    tiles: list[Tile]
    number: int
    """The number of the first tile, counted over all comparisons."""

    space: Workspace
    mirrored: bool
    """Whether S_ji is needed where j is a row of another rank."""

    def similarities(self, number: int, tile: Tile, again: bool = False) -> Tensor:
        """(1 or 2, I, J): S_ij, and its mirror where it is needed."""
        sides = 2 if self.mirrored or tile.mutual else 1
        S = self.space.tile(number, sides, tile)
        if not (again and self.space.keeps(number)):
            torch.mm(self.x_ND[tile.rows], self.y_ND[tile.columns].T, out=S[0])
            if sides == 2:
                torch.mm(self.y_ND[tile.rows], self.x_ND[tile.columns].T, out=S[1])
        return S

    def positives(self) -> Tensor:
        """The sum of S_ii over own rows, in nats."""
        products = torch.linalg.vecdot(self.x_ND[: self.own], self.y_ND[: self.own])
        return products.sum(dtype=torch.float64) * LN2

    def statistics(self, with_kl: bool) -> Tensor:
        """`Statistics` of own rows, (B, 3)."""
        row, column = LogSum(self.x_ND, self.own), LogSum(self.x_ND, self.own)
        for number, tile in enumerate(self.tiles, self.number):
            S = self.similarities(number, tile)
            powers, difference, _ = (buffer[0] for buffer in self.space.spare(1, tile))
            row.add(tile.rows, S[0], 1, powers)
            if tile.mutual:
                row.add(tile.columns, S[1], 0, powers)
            if with_kl:
                column.add(tile.rows, S[1], 1, powers, torch.sub(S[1], S[0], out=difference))
                if tile.mutual:
                    column.add(tile.columns, S[0], 0, powers, difference.neg_())
        return torch.stack([row.log(), column.log(), column.mean()] if with_kl else [row.log()] * 3, 1)

    def add_gradients(
        self,
        terms: Terms,
        statistics: Statistics | None,
        bias: Tensor,
        dx_BD: Tensor | None,
        dy_BD: Tensor | None,
    ) -> Tensor:
        """Add N times the gradients of own rows; (2,) N times the sigmoid loss and its derivative in the bias."""
        totals = bias.new_zeros(2, dtype=torch.float64)
        for number, tile in enumerate(self.tiles, self.number):
            S = self.similarities(number, tile, again=statistics is not None)
            softmax, *spare = self.space.spare(len(S), tile)
            if statistics is not None:
                softmax_slope_(S, terms.cross_entropy, terms.invariance, statistics, tile, softmax, *spare)
            if terms.gamma is not None:
                logits = torch.add(bias, S, alpha=LN2, out=S)
                counted = 2 if tile.mutual else 1
                totals[0] += sigmoid_slope_(logits, terms.gamma, terms.cutoff, tile.diagonal, counted, *spare)
                totals[1] += S[:counted].sum(-1).sum(dtype=torch.float64)
            if statistics is None:
                slope = S
            else:
                slope = softmax if terms.gamma is None else S.add_(softmax)
            self.accumulate(slope, tile, dx_BD, dy_BD)
        return totals
