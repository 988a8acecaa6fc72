"""All-reduce with a gradient, for losses that are functions of sums over the rows of all ranks."""

from typing import Any

import torch
from torch import Tensor

from runner.group import Group


def reduce_sum(x: Tensor, group: Group, *, alike: bool = False) -> Tensor:
    """The sum over ranks, with gradient.

    Backward sums what the losses of all ranks want from the sum. So when the loss of the batch is the mean over
    ranks, the mean over ranks of the parameters' gradients, as DDP takes it, is its gradient. `alike` promises
    that every rank goes on to compute the same from the sum, and mixes in nothing of its own: its gradient is
    then the same on every rank, and backward needs no communication.
    """
    if group.world == 1:
        return x
    return _Reduce.apply(x, group, alike)  # type: ignore[no-untyped-call, no-any-return]


class _Reduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group, alike: bool) -> Tensor:
        ctx.group, ctx.alike = group, alike
        return group.all_reduce_sum(x.contiguous())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        total = grad * ctx.group.world if ctx.alike else ctx.group.all_reduce_sum(grad.contiguous())
        return total, None, None
