"""Triplet margin loss: an anchor is nearer to its positive than to its negative, by a margin.

Schroff et al. 2015, "FaceNet: A Unified Embedding for Face Recognition and Clustering", eq. 3, with distances
instead of their squares as in Balntas et al. 2016, "Learning local feature descriptors with triplets", eq. 4.

Shapes: B triplets on this rank, D width.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from runner.group import Group
from runner.losses.reduction import mean_of_rows
from runner.losses.similarity import float_rows


def triplet_margin(
    anchor_BD: Tensor, positive_BD: Tensor, negative_BD: Tensor, group: Group, *, margin: float = 1.0
) -> Tensor:
    """Mean of max(0, |a - p| - |a - n| + margin) over triplets, with Euclidean distances.

    Like torch, it adds 1e-6 to every coordinate of a difference, so that equal rows have a gradient.
    """
    with torch.autocast(anchor_BD.device.type, enabled=False):
        a, p, n = (float_rows(rows) for rows in (anchor_BD, positive_BD, negative_BD))
        return mean_of_rows(F.triplet_margin_loss(a, p, n, margin=margin, reduction="none"), group)
