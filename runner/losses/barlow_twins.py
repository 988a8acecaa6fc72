"""Barlow Twins: the cross-correlation of two views becomes the identity.

Zbontar et al. 2021, "Barlow Twins: Self-Supervised Learning via Redundancy Reduction".

Shapes: B rows on this rank, N on all ranks, D width.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from runner.group import Group
from runner.losses.rows import full_precision, off_diagonal_squares
from runner.reduce import reduce_sum


class Terms(NamedTuple):
    """The weighted terms of the loss, which is their sum."""

    invariance: Tensor
    redundancy: Tensor


def barlow_twins(
    x_BD: Tensor,
    y_BD: Tensor,
    group: Group,
    *,
    redundancy: float = 5e-3,
    eps: float = 1e-5,
) -> Terms:
    """The loss of Barlow Twins (equations 1 and 2), with the statistics of the rows of all ranks.

    sum_i (C_ii - 1)^2 + redundancy sum_{i != j} C_ij^2 with C = x^T y / N, columns of x and y standardised
    as batch norm does without scale and shift: biased variance plus `eps`.

    x and y are raw projections of the same samples. Communicated are C and two rows of statistics.
    """
    assert x_BD.shape == y_BD.shape, (x_BD.shape, y_BD.shape)
    with torch.autocast(x_BD.device.type, enabled=False):
        N = sum(group.sizes(len(x_BD)))
        z_B2D = torch.cat([full_precision(x_BD), full_precision(y_BD)], 1)
        z_B2D = z_B2D - reduce_sum(z_B2D.sum(0), group) / N
        z_B2D = z_B2D * (reduce_sum(z_B2D.square().sum(0), group) / N + eps).rsqrt()
        x_BD, y_BD = z_B2D.chunk(2, 1)
        C_DD = reduce_sum(x_BD.T @ y_BD / N, group, alike=True)
        return Terms((C_DD.diagonal() - 1).square().sum(), redundancy * off_diagonal_squares(C_DD))
