"""Canonical correlations of several views of the same samples: linear maps after which the views agree.

Source: Kettenring 1971, "Canonical Analysis of Several Sets of Variables" (the sum of all correlations), with the
covariance within each view shrunk towards a multiple of the identity.

Shapes: N samples, F features of a view, D dimensions that are kept.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class AffineMap(NamedTuple):
    """x -> weight x + bias."""

    weight: Tensor
    """(D, F)"""

    bias: Tensor
    """(D,)"""


def find_canonical_maps(views: Sequence[Tensor], dimensions: int, shrinkage: float) -> list[AffineMap]:
    """The map of each (N, F) view to a common space, in which it has mean 0 and a mean square of 1.

    A dimension weighs as much as the views correlate in it. `shrinkage` times the mean variance of a view is added to
    each of its variances: 0 believes whatever correlates in the samples at hand. Dimensions beyond those of all views
    together are 0.
    """
    centred = [view_NF.double() - view_NF.double().mean(dim=0) for view_NF in views]
    whitening = [_inverse_root(x_NF.T @ x_NF / len(x_NF), shrinkage) for x_NF in centred]
    white = torch.cat([x_NF @ root_FF for x_NF, root_FF in zip(centred, whitening, strict=True)], dim=1)
    sizes = [x_NF.shape[1] for x_NF in centred]
    view_K = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    between = (white.T @ white / len(white)).masked_fill_(view_K[:, None] == view_K, 0)
    strength, directions = torch.linalg.eigh(between)
    # From the strongest; the negative ones are differences between views.
    strength_D, directions_D = strength.flip(0)[:dimensions].clamp(min=0), directions.flip(1)[:, :dimensions]
    maps = []
    for view_NF, x_NF, root_FF, part_FD in zip(views, centred, whitening, directions_D.split(sizes), strict=True):
        weight_DF = (root_FF @ part_FD * strength_D).T
        weight_DF = weight_DF / (x_NF @ weight_DF.T).square().mean().sqrt().clamp(min=1e-12)
        weight_DF = F.pad(weight_DF, (0, 0, 0, dimensions - len(weight_DF)))
        maps.append(AffineMap(weight_DF, -weight_DF @ view_NF.double().mean(dim=0)))
    return maps


def _inverse_root(covariance_FF: Tensor, shrinkage: float) -> Tensor:
    """The inverse square root of a covariance, shrunk; a direction without any variance is left out."""
    variance_F, axes_FF = torch.linalg.eigh(covariance_FF)
    variance_F = variance_F.clamp(min=0) + shrinkage * variance_F.mean()
    known_F = variance_F > 1e-10 * variance_F.max()
    root_FF: Tensor = axes_FF * torch.where(known_F, variance_F, torch.inf).rsqrt() @ axes_FF.T
    return root_FF
