"""The losses as their formulas read, with all N x N comparisons in memory: what the tiled ones must equal."""

import torch
from torch import Tensor
from torch.nn import functional as F


def invariance(logits_NN: Tensor) -> Tensor:
    """KL(softmax of column i || softmax of row i), mean over i."""
    log_rows, log_columns = logits_NN.log_softmax(1), logits_NN.T.log_softmax(1)
    return (log_columns.exp() * (log_columns - log_rows)).sum(1).mean()


def scl(x, y, log_scale, bias, *, gamma=1.0, alpha=0.0, max_scale=5.0, filter_threshold=None):
    """Loss and KL; the clamp of the scale is hard."""
    scale = log_scale.exp() if max_scale is None else log_scale.exp().clamp(max=max_scale)
    logits = scale * F.normalize(x, dim=1) @ F.normalize(y, dim=1).T + bias
    positives = torch.eye(len(x), dtype=torch.bool)
    z = torch.where(positives, logits, -logits)
    weight = (1 - z.sigmoid()) ** gamma
    if filter_threshold is not None:
        weight = (positives | (weight > filter_threshold)).to(z.dtype)
    kl = invariance(logits)
    return -(weight * F.logsigmoid(z)).sum() / len(x) + alpha * kl, kl


def relic(x, y, log_scale, *, alpha=1.0, max_scale=5.0):
    """Loss and KL; the clamp of the scale is hard."""
    scale = log_scale.exp() if max_scale is None else log_scale.exp().clamp(max=max_scale)
    logits = scale * F.normalize(x, dim=1) @ F.normalize(y, dim=1).T
    kl = invariance(logits)
    return F.cross_entropy(logits, torch.arange(len(x))) + alpha * kl, kl
