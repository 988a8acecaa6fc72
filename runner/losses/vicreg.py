"""Variance-invariance-covariance regularisation: two views agree, and no dimension dies or repeats another.

Bardes et al. 2022, "VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning".

Shapes: B rows on this rank, N on all ranks, D width.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from runner.gather import gather
from runner.group import Group
from runner.losses.rows import full_precision, off_diagonal_squares


class Terms(NamedTuple):
    """The weighted terms of the loss, which is their sum."""

    invariance: Tensor
    variance: Tensor
    covariance: Tensor


def vicreg(
    x_BD: Tensor,
    y_BD: Tensor,
    group: Group,
    *,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
    eps: float = 1e-4,
) -> Terms:
    """VICReg's loss of two views (equation 6), with the statistics of the rows of all ranks.

    invariance / (N D) sum_ij (x_ij - y_ij)^2
    + variance / (2 D) sum_j [relu(1 - sqrt(var(x_j) + eps)) + the same of y]
    + covariance / D sum_{j != k} [cov(x)_jk^2 + cov(y)_jk^2],

    var and cov over N - 1. As in the authors' code the squared distance is a mean over dimensions, too, where
    equation 5 has their sum. x and y are raw projections of the same samples; there must be 2 rows or more.
    """
    assert x_BD.shape == y_BD.shape, (x_BD.shape, y_BD.shape)
    with torch.autocast(x_BD.device.type, enabled=False):
        x_BD, y_BD = full_precision(x_BD), full_precision(y_BD)
        x_ND, y_ND = gather(torch.cat([x_BD, y_BD], 1), group).chunk(2, 1)
        distance = (x_BD - y_BD).square().sum() * (group.world / x_ND.numel())
        (spread_x, redundancy_x), (spread_y, redundancy_y) = (
            _spread_and_redundancy(view_ND, eps) for view_ND in (x_ND, y_ND)
        )
        return Terms(
            invariance * distance,
            variance * (spread_x + spread_y) / 2,
            covariance * (redundancy_x + redundancy_y),
        )


def _spread_and_redundancy(x_ND: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """What the standard deviations lack of 1, mean over dimensions; squared covariances, sum over pairs / D."""
    N, D = x_ND.shape
    assert N > 1, "one row has no variance"
    x_ND = x_ND - x_ND.mean(0)
    spread = F.relu(1 - (x_ND.square().sum(0) / (N - 1) + eps).sqrt()).mean()
    # The covariance is symmetric, so both of its factors get the same gradient: one product less where only
    # one of them has it, twice.
    half = off_diagonal_squares(x_ND.detach().T @ x_ND / (N - 1)) / D
    return spread, 2 * half - half.detach()
