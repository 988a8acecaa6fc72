"""Means over the rows of all ranks."""

import torch
from torch import Tensor

from runner.group import Group


def mean_of_rows(losses_B: Tensor, group: Group, weights_B: Tensor | None = None) -> Tensor:
    """This rank's part of the weighted mean over the rows of all ranks: the mean over ranks is that mean.

    Ranks may hold different numbers of rows. Summed in float64. 0 where all weights are, or no rank has a row.
    """
    if weights_B is None:
        rows = max(sum(group.sizes(len(losses_B))), 1)
        return losses_B.sum(dtype=torch.float64).mul(group.world / rows).to(losses_B.dtype)
    total = group.all_reduce_sum(weights_B.sum(dtype=torch.float64))
    share_B = group.world * weights_B / torch.where(total > 0, total, 1)
    return (losses_B * share_B).sum(dtype=torch.float64).to(losses_B.dtype)
