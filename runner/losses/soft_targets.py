"""CLIP's loss with soft targets: pairs whose sides resemble each other are not told apart.

ContraBin's primary loss: Zhang et al. 2022, "Pre-Training Representations of Binary Code Using Contrastive
Learning", eq. 2 to 6. The targets come from what is alike within each side. Its other loss, between binary
code and interpolations, is `info_nce`.

L = a b^T / T says how alike the two sides are, K = (a a^T + b b^T) / 2T what is alike within them; K is
symmetric. With P the softmax of the rows of L, C_ij = exp(L_ij - c_j) that of its columns and Q that of the
rows of K (so sum_j Q_ij = 1), every variant is

    loss = 1/N sum_i (first r_i + u_i c_i - sum_j Q_ij (own L_ij + mirror L_ji))

    r_i, c_i, k_i       the log of the sum of the exponentials of row i of L, column i of L, row i of K
    second "none"       first 1,    u_i = 0,                  own 1,    mirror 0
    "symmetric"         first 1/2,  u_i = 1/2,                own 1/2,  mirror 1/2
    "transposed"        first 1/2,  u_i = 1/2 sum_j Q_ji,     own 1,    mirror 0

and N times its derivatives are, with e_ij = u c_j [transposed: u = 1/2] - own L_ij - mirror L_ji,

    dL_ij = first P_ij + u_j C_ij - own Q_ij - mirror Q_ji
    dK_ij = Q_ij (e_ij - sum_j Q_ij e_ij)

Tiles, ranks and precision are as in pairwise.py; a tile and its mirror are visited together.

Shapes: B rows on this rank, N on all ranks, D width, K statistics, I x J a tile.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from runner.group import Group
from runner.losses.similarity import float_rows, unit_rows
from runner.losses.slopes import LN2, LogSum
from runner.losses.tiles import Tile, default_block, gather_own_first, walk

Second = Literal["none", "symmetric", "transposed"]


def soft_target_cross_entropy(
    a_BD: Tensor,
    b_BD: Tensor,
    temperature: float | Tensor,
    group: Group,
    *,
    second_direction: Second = "symmetric",
    normalize: bool = False,
    detach_targets: bool = False,
    block: int | None = None,
) -> Tensor:
    """Softmax cross entropy of a against b, and of b against a, with targets Q.

    L = a b^T / T, Q = softmax of the rows of (a a^T + b b^T) / 2T:
    -1/N sum_ij Q_ij log softmax(row i of L)_j is the first direction. The second compares b with a, with the
    targets Q ("symmetric": exchanging a and b changes nothing) or with Q^T, whose rows do not sum to 1
    ("transposed", as in ContraBin's code); the loss is their mean. With "none" it is the first alone.

    a, b: (B, D). The gradient also flows through the targets unless they are detached. `temperature` is a
    number or a tensor, which then gets a gradient. No result depends on `block`.
    """
    assert a_BD.shape == b_BD.shape, (a_BD.shape, b_BD.shape)
    with torch.autocast(a_BD.device.type, enabled=False):
        rows = unit_rows if normalize else float_rows
        ab_B2D = torch.stack([rows(a_BD), rows(b_BD)], 1) / temperature**0.5
        block = block or default_block(ab_B2D.device)
        loss: Tensor = _SoftTargets.apply(ab_B2D, VARIANTS[second_direction], detach_targets, group, block)  # type: ignore[no-untyped-call]
        return loss


class Variant(NamedTuple):
    """The constants of the loss, see above."""

    first: float
    second: float
    own: float
    mirror: float
    by_mass: bool
    """u_i is `second` times the sum of column i of Q."""


VARIANTS: dict[Second, Variant] = {
    "none": Variant(1.0, 0.0, 1.0, 0.0, False),
    "symmetric": Variant(0.5, 0.5, 0.5, 0.5, False),
    "transposed": Variant(0.5, 0.5, 1.0, 0.0, True),
}


class _SoftTargets(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ab_B2D: Tensor, variant: Variant, detach_targets: bool, group: Group, block: int) -> Tensor:
        root = math.sqrt(LN2)  # rows / root, so that L and K are in bits
        ab_N2D = gather_own_first(ab_B2D / root, group)
        B, N = len(ab_B2D), len(ab_N2D)
        comparison = Comparison(ab_N2D[:, 0], ab_N2D[:, 1], B, list(walk(B, N, block)), variant)
        own = comparison.statistics()
        all_N = Statistics(*gather_own_first(torch.stack(own, 1), group).unbind(1))
        mass_B, level_B = comparison.targets(all_N)
        error_B = (variant.second * level_B if variant.by_mass else 0) - own.agreement
        u_B = variant.second * (mass_B if variant.by_mass else torch.ones_like(mass_B))
        loss: Tensor = (variant.first * own.row + u_B * own.column - own.agreement).sum(dtype=torch.float64)

        ctx.weight = weight = group.world / N
        if ctx.needs_input_grad[0]:
            u_N, error_N = gather_own_first(torch.stack([u_B, error_B], 1), group).unbind(1)
            ctx.save_for_backward(root * comparison.gradient(all_N, u_N, error_N, detach_targets))
        return (LN2 * weight * loss).to(ab_B2D.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        (dab_B2D,) = ctx.saved_tensors
        return dab_B2D * (grad * ctx.weight), None, None, None, None


class Statistics(NamedTuple):
    """Of every row; each (N,), in bits."""

    row: Tensor
    """r_i"""

    column: Tensor
    """c_i"""

    target: Tensor
    """k_i"""

    agreement: Tensor
    """sum_j Q_ij (own L_ij + mirror L_ji)"""


@dataclass(frozen=True)
class Comparison:
    """a against b, tile by tile."""

    a: Tensor
    """(N, D) in units of the root of log 2, own rows first."""

    b: Tensor
    """(N, D)"""

    own: int
    tiles: list[Tile]
    variant: Variant

    def orientations(self) -> Iterator[tuple[slice, slice, Tensor, Tensor, Tensor]]:
        """(rows, columns, L_ij, L_ji, K_ij) for all own rows and all columns, once; each (I, J)."""
        for tile in self.tiles:
            rows, columns = tile.rows, tile.columns
            L, mirror = self.a[rows] @ self.b[columns].T, self.b[rows] @ self.a[columns].T
            K = (self.a[rows] @ self.a[columns].T).addmm_(self.b[rows], self.b[columns].T).mul_(0.5)
            yield rows, columns, L, mirror, K
            if tile.mutual:
                yield columns, rows, mirror.T, L.T, K.T

    def compared(self, L: Tensor, mirror: Tensor) -> Tensor:
        return self.variant.own * L + self.variant.mirror * mirror if self.variant.mirror else L

    def statistics(self) -> Statistics:
        """The statistics of own rows."""
        row, column, target = (LogSum(self.own, self.a) for _ in range(3))
        for rows, _, L, mirror, K in self.orientations():
            powers = torch.empty_like(K)
            row.add(rows, L, 1, powers)
            column.add(rows, mirror, 1, powers)
            target.add(rows, K, 1, powers, self.compared(L, mirror))
        return Statistics(row.log(), column.log(), target.log(), target.mean())

    def targets(self, statistics: Statistics) -> tuple[Tensor, Tensor]:
        """sum_j Q_ji and sum_j Q_ij c_j of own rows; zeros where the variant does not need them."""
        mass_B, level_B = self.a.new_zeros(2, self.own)
        if self.variant.by_mass:
            for rows, columns, _, _, K in self.orientations():
                mass_B[rows] += (K - statistics.target[columns]).exp2_().sum(1)
                level_B[rows] += (K - statistics.target[rows, None]).exp2_() @ statistics.column[columns]
        return mass_B, level_B

    def gradient(self, statistics: Statistics, u_N: Tensor, error_N: Tensor, detach_targets: bool) -> Tensor:
        """N times the gradient of own rows of a and b, (B, 2, D)."""
        r_N, c_N, k_N, _ = statistics
        level_N = self.variant.second * c_N if self.variant.by_mass else torch.zeros_like(c_N)
        dab_B2D = self.a.new_zeros(self.own, 2, self.a.shape[1])
        da_BD, db_BD = dab_B2D.unbind(1)
        for rows, columns, L, mirror, K in self.orientations():
            rows_1 = rows, None  # i indexes rows of a tile, j its columns
            Q, Q_mirror = (K - k_N[rows_1]).exp2_(), (K - k_N[columns]).exp2_()
            da_BD[rows] += self.slope(L, r_N[rows_1], c_N[columns], u_N[columns], Q, Q_mirror) @ self.b[columns]
            db_BD[rows] += self.slope(mirror, r_N[columns], c_N[rows_1], u_N[rows_1], Q_mirror, Q) @ self.a[columns]
            if not detach_targets:
                dK = Q.mul_(level_N[columns] - error_N[rows_1] - self.compared(L, mirror))
                dK += Q_mirror.mul_(level_N[rows_1] - error_N[columns] - self.compared(mirror, L))
                dK *= LN2 / 2
                da_BD[rows] += dK @ self.a[columns]
                db_BD[rows] += dK @ self.b[columns]
        return dab_B2D

    def slope(self, L: Tensor, row: Tensor, column: Tensor, u: Tensor, Q: Tensor, Q_mirror: Tensor) -> Tensor:
        """N times the derivative with respect to a tile of L."""
        slope = (L - row).exp2_().mul_(self.variant.first)
        if self.variant.second:
            slope += (L - column).exp2_().mul_(u)
        slope.sub_(Q, alpha=self.variant.own)
        return slope.sub_(Q_mirror, alpha=self.variant.mirror) if self.variant.mirror else slope
