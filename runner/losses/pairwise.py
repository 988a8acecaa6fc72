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

A queue adds columns to S that belong to no row: negatives of every row of x, which get no gradient.

Shapes: B rows on this rank, N on all ranks, Q in the queue, V and T views of x and y, D width, P pairs of
views, K statistics, I x J a tile.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from runner.group import Group
from runner.losses.comparison import Comparison, Terms
from runner.losses.slopes import LN2, Statistics
from runner.losses.tiles import Workspace, default_block, gather_own_first, walk, walk_queue


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
    queue_QD: Tensor | None = None,
) -> Measured:
    """The mean of `terms` over pairs of views (v, t), with S = x_v y_t^T and S + bias for the sigmoid loss.

    Row i of x and row i of y belong to the same sample. Differentiable once in x, y and bias; what needs no
    gradient costs nothing. float32 or float64; the loss is summed in float64. Every rank has the same queue;
    only the cross entropy of rows knows what to do with one.
    """
    assert x_BVD.dtype == y_BTD.dtype == bias.dtype, (x_BVD.dtype, y_BTD.dtype, bias.dtype)
    assert len(x_BVD) == len(y_BTD), (x_BVD.shape, y_BTD.shape)
    queue_QD = x_BVD.new_empty(0, x_BVD.shape[-1]) if queue_QD is None else queue_QD.detach()
    assert (terms.in_batch and not len(queue_QD)) or (terms.gamma is None and not terms.need_columns), terms
    block = block or default_block(x_BVD.device)
    return Measured(*_Pairwise.apply(x_BVD, y_BTD, bias, queue_QD, terms, group, tuple(pairs), block))  # type: ignore[no-untyped-call]


class _Pairwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_BVD: Tensor,
        y_BTD: Tensor,
        bias: Tensor,
        queue_QD: Tensor,
        terms: Terms,
        group: Group,
        pairs: tuple[tuple[int, int], ...],
        block: int,
    ) -> tuple[Tensor, Tensor | None]:
        need_dx, need_dy, need_dbias, *_ = ctx.needs_input_grad
        mirrored = need_dy or terms.need_columns
        x_NVD, y_NTD = gather_views(x_BVD / LN2, y_BTD, mirrored, group)
        B, N, P = len(x_BVD), len(y_NTD), len(pairs)
        tiles = [tile for tile in walk(B, N, block) if terms.in_batch or tile.diagonal]
        tiles += walk_queue(B, len(queue_QD), block)
        largest = min(block, max(N, len(queue_QD)))
        space = Workspace(x_BVD, largest, keep=P * len(tiles) if terms.need_softmax else 0)
        comparisons = [
            Comparison(x_NVD[:, v], y_NTD[:, t], queue_QD, B, tiles, index * len(tiles), space, mirrored, terms)
            for index, (v, t) in enumerate(pairs)
        ]

        loss, kl = bias.new_zeros(2, dtype=torch.float64)
        statistics: list[Statistics | None] = [None] * P
        if terms.need_softmax:
            own_BPK = torch.stack([comparison.statistics() for comparison in comparisons], 1)
            row, column, mismatch = LN2 * own_BPK.sum((0, 1), dtype=torch.float64)
            positives = LN2 * sum(comparison.positives() for comparison in comparisons)
            kl = mismatch - column + row
            loss = terms.cross_entropy * (row - positives) + terms.invariance * kl
            loss += terms.column_cross_entropy * (column - positives)
            all_PKN = gather_own_first(own_BPK, group).permute(1, 2, 0).contiguous()
            statistics = [Statistics(*all_KN) for all_KN in all_PKN]

        dx_BVD = torch.zeros_like(x_BVD) if need_dx else None
        dy_BTD = torch.zeros_like(y_BTD) if need_dy else None
        dbias = torch.zeros_like(loss) if need_dbias else None
        for (v, t), comparison, of_pair in zip(pairs, comparisons, statistics, strict=True):
            dx_BD = None if dx_BVD is None else dx_BVD[:, v]
            dy_BD = None if dy_BTD is None else dy_BTD[:, t]
            comparison.add(of_pair, bias, loss, dbias, dx_BD, dy_BD)

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
        return *of_inputs, None, None, None, None, None


def gather_views(x_BVD: Tensor, y_BTD: Tensor, both: bool, group: Group) -> tuple[Tensor, Tensor]:
    """Rows of all ranks of y and, if `both`, of x too; one collective, own rows first."""
    if not both:
        return x_BVD, gather_own_first(y_BTD, group)
    if group.world == 1:
        return x_BVD, y_BTD
    V = x_BVD.shape[1]
    rows = gather_own_first(torch.cat([x_BVD, y_BTD], 1), group)
    return rows[:, :V], rows[:, V:]
