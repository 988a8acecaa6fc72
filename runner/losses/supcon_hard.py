"""SupCon-Hard: one anchor at a time against positives and mined negatives of its own.

Yu et al. 2023, "Enzyme function prediction using contrastive learning" (CLEAN), where each sample brings its
own positives and hard negatives, drawn by class; the form of the loss is Khosla et al. 2020, eq. 2.

Shapes: B anchors on this rank, P positives and M = P + N candidates of each, D width.
"""

import torch
from torch import Tensor

from runner.group import Group
from runner.losses.reduction import mean_of_rows
from runner.losses.similarity import float_rows, unit_rows


def supcon_hard(
    z_BXD: Tensor,
    positives: int,
    temperature: float | Tensor,
    group: Group,
    *,
    normalize: bool = True,
    valid_BM: Tensor | None = None,
    weights_B: Tensor | None = None,
) -> Tensor:
    """Mean over anchors of the cross entropy against their positives, among positives and negatives.

    z: (B, 1 + P + N, D), an anchor, P = `positives` of its positives and N >= 0 negatives;
    s_m = cos(z_0, z_m) / temperature, or z_0 . z_m / temperature without `normalize`, for m >= 1:
    loss = mean_b (log sum_{m in P and N} exp s_m - mean_{m in P} s_m).

    `valid` (B, P + N) is False where a place is only padding; an anchor without a valid positive is left out
    of the mean. `weights` (B,) weigh the anchors in it, and need not sum to anything. It stays finite at any
    temperature, for opposite vectors too.
    """
    assert 1 <= positives < z_BXD.shape[1], (positives, z_BXD.shape)
    with torch.autocast(z_BXD.device.type, enabled=False):
        z_BXD = (unit_rows if normalize else float_rows)(z_BXD)
        s_BM = torch.linalg.vecdot(z_BXD[:, :1], z_BXD[:, 1:]) / temperature
        if valid_BM is None:
            return mean_of_rows(s_BM.logsumexp(1) - s_BM[:, :positives].mean(1), group, weights_B)
        assert valid_BM.dtype == torch.bool and valid_BM.shape == s_BM.shape, (valid_BM.dtype, valid_BM.shape)
        count_B = valid_BM[:, :positives].sum(1)
        weights_B = (count_B > 0).to(s_BM.dtype) * (1 if weights_B is None else weights_B)
        positive_B = (s_BM * valid_BM)[:, :positives].sum(1) / count_B.clamp(min=1)
        # the smallest finite number, so that an anchor without any candidate has no nan for a gradient
        all_B = s_BM.masked_fill(~valid_BM, torch.finfo(s_BM.dtype).min).logsumexp(1)
        return mean_of_rows(all_B - positive_B, group, weights_B)
