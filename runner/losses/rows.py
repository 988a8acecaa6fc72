"""What the losses have in common that do not compare all pairs: precision, and means over the rows of all ranks.

Shapes: B rows on this rank, N on all ranks, D width.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from runner.group import Group

BLOCK_VALUES = 2**20
"""Entries of a matrix that are squared at once."""


def full_precision(x: Tensor) -> Tensor:
    """float32, or float64 where it is that already."""
    return x if x.dtype == torch.float64 else x.float()


def mean_part(values_B: Tensor, group: Group) -> Tensor:
    """This rank's part in the mean over the rows of all ranks, such that the mean of the parts is that mean.

    Ranks may hold different numbers of rows, also none.
    """
    return values_B.sum() * (group.world / sum(group.sizes(len(values_B))))


def off_diagonal_squares(C_DD: Tensor) -> Tensor:
    """The sum of C_ij^2 over i != j, without a second matrix of that size; differentiable once, summed in float64."""
    return _OffDiagonalSquares.apply(C_DD)  # type: ignore[no-untyped-call, no-any-return]


def _squares(x: Tensor) -> Tensor:
    return x.square().sum(dtype=torch.float64)


class _OffDiagonalSquares(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, C_DD: Tensor) -> Tensor:
        ctx.save_for_backward(C_DD)
        blocks = torch.split(C_DD, max(1, BLOCK_VALUES // len(C_DD)))
        total = torch.stack([_squares(block) for block in blocks]).sum() - _squares(C_DD.diagonal())
        return total.to(C_DD.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (C_DD,) = ctx.saved_tensors
        slope_DD: Tensor = C_DD * (2 * grad)
        slope_DD.diagonal().zero_()
        return slope_DD
