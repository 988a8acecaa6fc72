"""The engine of the losses that compare every row of x with every row of y, without storing the comparisons.

Such a loss is a function of S = x y^T alone. Its gradient is G y for x and G^T x for y, where G = dloss/dS
is known in closed form. So one walk over tiles of S gives the loss and both gradients: a tile is computed,
turned into G in place, multiplied into the gradients and forgotten. Memory is O(N D) plus some tiles, never
N x N; backward only scales what forward has found. Softmax terms need statistics of whole rows and columns,
hence another walk before that one.

The tile of S at (I, J) and its mirror at (J, I) are visited together, because the invariance term couples
S_ij with S_ji. Both are held as (I, J).

On several ranks each one visits its own rows and its own columns of S, against the gathered rows of the
others. That gives the exact gradient of its own rows, so no gradient is communicated. Everything is divided
by the global N and multiplied by the world size: the mean over ranks is what one process computes.

Shapes: B rows on this rank, N on all ranks, V and T views of x and y, D width, P pairs of views,
K statistics, I x J a tile.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from runner.group import Group
from runner.losses.slopes import LN2, LogSum, Statistics, sigmoid_slope_, softmax_slope
from runner.losses.tiles import Tile, Workspace, default_block, walk


@dataclass(frozen=True)
class Terms:
    """What is summed over the pairs of rows, and divided by N."""

    gamma: float | None = None
    """Exponent of the modulated sigmoid loss, 0 for the plain one; None leaves the sigmoid loss out."""

    cutoff: float | None = None
    """Leave out negatives whose logit is at most this, and do not modulate the other pairs."""

    cross_entropy: float = 0.0
    """Weight of the softmax cross entropy of each row of S against its own column."""

    invariance: float = 0.0
    """Weight of KL(softmax of column i || softmax of row i)."""

    measure_kl: bool = False
    """Measure that divergence even where its weight is 0."""

    @property
    def need_kl(self) -> bool:
        return bool(self.invariance) or self.measure_kl

    @property
    def need_softmax(self) -> bool:
        return self.need_kl or bool(self.cross_entropy)


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
    pairs: Sequence[tuple[int, int]],
    block: int | None = None,
) -> Measured:
    """The mean of `terms` over pairs of views (v, t), with S = x_v y_t^T and S + bias for the sigmoid loss.

    Row i of x and row i of y belong to the same sample. Differentiable once in x, y and bias; what needs no
    gradient costs nothing. float32 or float64; the loss is summed in float64.
    """
    assert x_BVD.dtype == y_BTD.dtype == bias.dtype, (x_BVD.dtype, y_BTD.dtype, bias.dtype)
    assert len(x_BVD) == len(y_BTD), (x_BVD.shape, y_BTD.shape)
    block = block or default_block(x_BVD.device)
    return Measured(*_Pairwise.apply(x_BVD, y_BTD, bias, terms, group, tuple(pairs), block))  # type: ignore[no-untyped-call]


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
        need_dx, need_dy, need_dbias, *_ = ctx.needs_input_grad
        mirrored = need_dy or terms.need_kl
        x_NVD, y_NTD = gather_views(x_BVD / LN2, y_BTD, mirrored, group)
        B, N, P = len(x_BVD), len(y_NTD), len(pairs)
        tiles = list(walk(B, N, block))
        space = Workspace(x_BVD, min(block, N), keep=P * len(tiles) if terms.need_softmax else 0)
        comparisons = [
            Comparison(x_NVD[:, v], y_NTD[:, t], B, tiles, index * len(tiles), space, mirrored)
            for index, (v, t) in enumerate(pairs)
        ]

        loss, kl = bias.new_zeros(2, dtype=torch.float64)
        statistics: list[Statistics | None] = [None] * P
        if terms.need_softmax:
            own_BPK = torch.stack([comparison.statistics(terms.need_kl) for comparison in comparisons], 1)
            row, column, mismatch = LN2 * own_BPK.sum((0, 1), dtype=torch.float64)
            positives = LN2 * sum(comparison.positives() for comparison in comparisons)
            kl = mismatch - column + row
            loss = terms.cross_entropy * (row - positives) + terms.invariance * kl
            all_PKN = gather_own_first(own_BPK, group).permute(1, 2, 0).contiguous()
            statistics = [Statistics(*all_KN) for all_KN in all_PKN]

        dx_BVD = torch.zeros_like(x_BVD) if need_dx else None
        dy_BTD = torch.zeros_like(y_BTD) if need_dy else None
        dbias = torch.zeros_like(loss) if need_dbias else None
        for (v, t), comparison, of_pair in zip(pairs, comparisons, statistics, strict=True):
            dx_BD = None if dx_BVD is None else dx_BVD[:, v]
            dy_BD = None if dy_BTD is None else dy_BTD[:, t]
            comparison.add(terms, of_pair, bias, loss, dbias, dx_BD, dy_BD)

        ctx.weight = group.world / (N * P)
        ctx.save_for_backward(dx_BVD, dy_BTD, dbias)
        loss, kl = (loss * ctx.weight).to(x_BVD.dtype), (kl * ctx.weight).to(x_BVD.dtype)
        if not terms.need_kl:
            return loss, None
        ctx.mark_non_differentiable(kl)
        return loss, kl

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        weight = grad * ctx.weight
        of_inputs = [None if sums is None else sums.to(grad.dtype) * weight for sums in ctx.saved_tensors]
        return *of_inputs, None, None, None, None


def gather_views(x_BVD: Tensor, y_BTD: Tensor, both: bool, group: Group) -> tuple[Tensor, Tensor]:
    """Rows of all ranks of y and, if `both`, of x too; one collective, own rows first."""
    if not both:
        return x_BVD, gather_own_first(y_BTD, group)
    if group.world == 1:
        return x_BVD, y_BTD
    V = x_BVD.shape[1]
    rows = gather_own_first(torch.cat([x_BVD, y_BTD], 1), group)
    return rows[:, :V], rows[:, V:]


def gather_own_first(rows: Tensor, group: Group) -> Tensor:
    """Rows of all ranks in rank order, beginning with this rank."""
    if group.world == 1:
        return rows
    start = sum(group.sizes(len(rows))[: group.rank])
    return torch.roll(group.all_gather(rows), -start, 0)


@dataclass(frozen=True)
class Comparison:
    """One view of x against one view of y: S = x y^T in bits, tile by tile."""

    x: Tensor
    """(N, D) in units of log 2, own rows first; the others are only there if mirrored."""

    y: Tensor
    """(N, D), own rows first."""

    own: int
    tiles: list[Tile]
    first: int
    """The number of the first tile, counted over all comparisons."""

    space: Workspace
    mirrored: bool
    """Whether S_ji is needed even where j is a row of another rank."""

    def similarities(self, number: int, tile: Tile, again: bool = False) -> Tensor:
        """S_ij and, where it is needed, S_ji: (1 or 2, I, J)."""
        sides = 2 if self.mirrored or tile.mutual else 1
        S = self.space.similarities(number, sides, tile)
        if not (again and self.space.keeps(number)):
            torch.mm(self.x[tile.rows], self.y[tile.columns].T, out=S[0])
            if sides == 2:
                torch.mm(self.y[tile.rows], self.x[tile.columns].T, out=S[1])
        return S

    def positives(self) -> Tensor:
        """The sum of S_ii over own rows, in bits."""
        own_B: Tensor = torch.linalg.vecdot(self.x[: self.own], self.y[: self.own])
        return own_B.sum(dtype=torch.float64)

    def statistics(self, with_kl: bool) -> Tensor:
        """The `Statistics` of own rows and columns, (B, 3); without KL only the first is computed."""
        row, column = LogSum(self.own, self.x), LogSum(self.own, self.x)
        for number, tile in enumerate(self.tiles, self.first):
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

    def add(
        self,
        terms: Terms,
        statistics: Statistics | None,
        bias: Tensor,
        loss: Tensor,
        dbias: Tensor | None,
        dx_BD: Tensor | None,
        dy_BD: Tensor | None,
    ) -> None:
        """Add N times the sigmoid loss and N times the gradients of all terms, in place, for own rows."""
        for number, tile in enumerate(self.tiles, self.first):
            S = self.similarities(number, tile, again=statistics is not None)
            softmax, *spare = self.space.spare(len(S), tile)
            own = 2 if tile.mutual else 1  # the mirror of another rank's row counts in that rank's loss
            wanted = own if dy_BD is None else 2
            slope: Tensor | None = None
            if statistics is not None and (terms.cross_entropy or terms.invariance):
                slope = softmax_slope(
                    S, terms.cross_entropy, terms.invariance, statistics, tile, softmax[:wanted], *spare
                )
            if terms.gamma is not None:
                logits = S[:wanted]
                torch.add(bias, logits, alpha=LN2, out=logits)
                scratch = (buffer[:wanted] for buffer in spare)
                loss += sigmoid_slope_(logits, terms.gamma, terms.cutoff, tile.diagonal, *scratch)[:own].sum()
                if dbias is not None:
                    dbias += logits[:own].sum(-1).sum(dtype=torch.float64)
                slope = logits if slope is None else logits.add_(slope)
            assert slope is not None, terms
            self.multiply(slope, tile, dx_BD, dy_BD)

    def multiply(self, slope: Tensor, tile: Tile, dx_BD: Tensor | None, dy_BD: Tensor | None) -> None:
        """From dloss/dS to the gradients of own rows."""
        rows, columns = tile.rows, tile.columns
        if dx_BD is not None:
            dx_BD[rows].addmm_(slope[0], self.y[columns])
            if tile.mutual:
                dx_BD[columns].addmm_(slope[1].T, self.y[rows])
        if dy_BD is not None:
            dy_BD[rows].addmm_(slope[1], self.x[columns], alpha=LN2)
            if tile.mutual:
                dy_BD[columns].addmm_(slope[0].T, self.x[rows], alpha=LN2)
