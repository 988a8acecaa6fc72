"""The engine of the losses that compare every row with every other one of the same set.

S = z z^T is symmetric and a row is not compared with itself, so half of its tiles are enough: a tile gives
both what its rows make of its columns and what its columns make of its rows. Tiles, ranks and precision are
as in pairwise.py: two walks, the gradient of own rows derived in closed form, nothing of size N x N.

Shapes: B rows on this rank, N on all ranks, D width, I x J a tile.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from runner.group import Group
from runner.losses.slopes import LN2, LogSum, nothing
from runner.losses.tiles import Tile, Workspace, default_block, gather_own_first, walk


def log_sum_of_others(z_BD: Tensor, weight_B: Tensor, group: Group, block: int | None = None) -> Tensor:
    """sum_i w_i log sum_{j != i} exp(z_i . z_j) over own rows i and the rows j of all ranks, in float64.

    The gradient is that of the sum over all ranks: own rows are also others of rows elsewhere. Differentiable
    once, in z; weights are at least 0, and 0 leaves a row out.
    """
    assert z_BD.dtype == weight_B.dtype, (z_BD.dtype, weight_B.dtype)
    block = block or default_block(z_BD.device)
    return _LogSumOfOthers.apply(z_BD, weight_B, group, block)  # type: ignore[no-untyped-call, no-any-return]


class _LogSumOfOthers(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z_BD: Tensor, weight_B: Tensor, group: Group, block: int) -> Tensor:
        root = math.sqrt(LN2)  # z / root, so that S is in bits
        z_ND = gather_own_first(z_BD / root, group)
        B, N = len(z_BD), len(z_ND)
        tiles = list(walk(B, N, block))
        space = Workspace(z_BD, min(block, N), keep=len(tiles), sides=1)
        own_B = log_sums(z_ND, B, tiles, space)
        loss = LN2 * (weight_B * own_B).sum(dtype=torch.float64)
        if ctx.needs_input_grad[0]:
            # weight exp(S - log sum) as one power
            offset_N = gather_own_first(own_B - weight_B.log2(), group)
            ctx.save_for_backward(root * gradient(z_ND, B, offset_N, tiles, space))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (dz_BD,) = ctx.saved_tensors
        return dz_BD * grad.to(dz_BD.dtype), None, None, None


def similarities(z_ND: Tensor, number: int, tile: Tile, space: Workspace, again: bool = False) -> Tensor:
    """S_ij of a tile in bits, (I, J)."""
    S = space.similarities(number, 1, tile)[0]
    if not (again and space.keeps(number)):
        torch.mm(z_ND[tile.rows], z_ND[tile.columns].T, out=S)
        if tile.diagonal:
            S.fill_diagonal_(nothing(S))
    return S


def log_sums(z_ND: Tensor, own: int, tiles: Sequence[Tile], space: Workspace) -> Tensor:
    """log sum_{j != i} exp S_ij of own rows, (B,) in bits."""
    others = LogSum(own, z_ND)
    for number, tile in enumerate(tiles):
        S = similarities(z_ND, number, tile, space)
        powers = space.spare(1, tile)[0][0]
        others.add(tile.rows, S, 1, powers)
        if tile.mutual:
            others.add(tile.columns, S, 0, powers)
    return others.log()


def gradient(z_ND: Tensor, own: int, offset_N: Tensor, tiles: Sequence[Tile], space: Workspace) -> Tensor:
    """sum_j (w_i P_ij + w_j P_ji) z_j of own rows, with w_i P_ij = exp(S_ij - offset_i): (B, D)."""
    dz_BD = torch.zeros_like(z_ND[:own])
    for number, tile in enumerate(tiles):
        S = similarities(z_ND, number, tile, space, again=True)
        slope, of_columns = (buffer[0] for buffer in space.spare(1, tile)[:2])
        torch.sub(S, offset_N[tile.rows, None], out=slope).exp2_()
        slope += torch.sub(S, offset_N[tile.columns], out=of_columns).exp2_()
        dz_BD[tile.rows].addmm_(slope, z_ND[tile.columns])
        if tile.mutual:
            dz_BD[tile.columns].addmm_(slope.T, z_ND[tile.rows])
    return dz_BD
