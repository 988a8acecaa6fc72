"""All-gather with a gradient, for losses written as if one process held all rows.

The losses in runner/losses that compare all pairs do without it: they derive the gradient of their own rows.
"""

from typing import Any

import torch
from torch import Tensor

from runner.group import Group


def gather(x_BD: Tensor, group: Group) -> Tensor:
    """Rows of all ranks in rank order, (N, D), with gradient; ranks may hold different numbers of rows.

    Backward sums what the losses of all ranks want from this rank's rows. So when the loss of the batch is
    the mean over ranks, the mean over ranks of the parameters' gradients, as DDP takes it, is its gradient.
    """
    if group.world == 1:
        return x_BD
    return _Gather.apply(x_BD, group)  # type: ignore[no-untyped-call, no-any-return]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BD: Tensor, group: Group) -> Tensor:
        start = sum(group.sizes(len(x_BD))[: group.rank])
        ctx.group, ctx.own = group, slice(start, start + len(x_BD))
        return group.all_gather(x_BD)

    @staticmethod
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor, None]:
        return ctx.group.all_reduce_sum(grad_ND)[ctx.own], None
