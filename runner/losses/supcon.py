"""SupCon: the rows of one class are positives of each other.

Khosla et al. 2020, "Supervised Contrastive Learning", eq. 2 (L_out: the mean over positives outside the log).

Shapes: B samples on this rank, N on all ranks, V views, M = B V rows, C classes, D width.
"""

import torch
from torch import Tensor

from runner.group import Group
from runner.losses.self_similarity import log_sum_of_others
from runner.losses.similarity import float_rows, unit_rows
from runner.losses.tiles import gather_own_first


def supcon(
    z: Tensor,
    labels_B: Tensor,
    temperature: float | Tensor,
    group: Group,
    *,
    normalize: bool = True,
    block: int | None = None,
) -> Tensor:
    """Mean over rows of the cross entropy against their positives, among all rows but itself.

    S_ij = cos(z_i, z_j) / temperature, P(i) the other rows with the label of row i:
    loss = mean_i (log sum_{j != i} exp S_ij - mean_{p in P(i)} S_ip).

    z: (B, D), or (B, V, D), whose V rows have the label of their sample; labels: (B,) integers. Rows without
    a positive are negatives only and not in the mean; the loss is 0 where no row has one. The keywords are as
    in `info_nce`.
    """
    assert len(z) == len(labels_B), (z.shape, labels_B.shape)
    with torch.autocast(z.device.type, enabled=False):
        labels_M = labels_B.repeat_interleave(z.shape[1]) if z.ndim == 3 else labels_B
        z_MD = (unit_rows if normalize else float_rows)(z.flatten(0, -2)) / temperature**0.5
        labels_N = gather_own_first(labels_M, group)
        _, class_N, size_C = torch.unique(labels_N, return_inverse=True, return_counts=True)
        class_M = class_N[: len(z_MD)]
        anchors = int(size_C[size_C > 1].sum())
        weight_M = (size_C[class_M] > 1).to(z_MD.dtype) * (group.world / max(anchors, 1))
        others = log_sum_of_others(z_MD, weight_M, group, block)
        return (others - similarity_of_positives(z_MD, weight_M, class_M, size_C, group)).to(z_MD.dtype)


def similarity_of_positives(z_MD: Tensor, weight_M: Tensor, class_M: Tensor, size_C: Tensor, group: Group) -> Tensor:
    """sum_i w_i mean_{p in P(i)} z_i . z_p over own rows i, in float64; the gradient is that of all ranks' sum.

    The positives of a row sum to its class without itself, so no pairs are formed.
    """
    sum_CD = z_MD.new_zeros(len(size_C), z_MD.shape[1]).index_add_(0, class_M, z_MD.detach())
    positives_MD = group.all_reduce_sum(sum_CD)[class_M] - z_MD.detach()
    share_M = weight_M / (size_C[class_M] - 1).clamp(min=1)
    similarity: Tensor = (share_M * torch.linalg.vecdot(z_MD, positives_MD)).sum(dtype=torch.float64)
    # a row is as much a positive of its positives as they are of it: the gradient counts twice
    return 2 * similarity - similarity.detach()
