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


def nt_xent(x, y, temperature):
    """Row by row: the others are all rows but this one."""
    z = F.normalize(torch.cat([x, y]), dim=1)
    n, losses = len(x), []
    for i in range(2 * n):
        others = torch.cat([z[:i], z[i + 1 :]]) @ z[i] / temperature
        losses.append(others.logsumexp(0) - z[i] @ z[(i + n) % (2 * n)] / temperature)
    return torch.stack(losses).mean()


def info_nce(x, y, temperature, *, symmetric=True, normalize=True, queue=None, in_batch=True):
    if normalize:
        x, y, queue = (None if rows is None else F.normalize(rows, dim=1) for rows in (x, y, queue))
    logits = x @ y.T / temperature
    labels = torch.arange(len(x))
    if symmetric:
        return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
    if not in_batch:
        logits, labels = logits.diagonal()[:, None], torch.zeros_like(labels)
    if queue is not None:
        logits = torch.cat([logits, x @ queue.T / temperature], 1)
    return F.cross_entropy(logits, labels)


def soft_targets(a, b, temperature, *, second_direction="symmetric", normalize=False, detach_targets=False):
    if normalize:
        a, b = F.normalize(a, dim=1), F.normalize(b, dim=1)
    logits = a @ b.T / temperature
    targets = ((a @ a.T + b @ b.T) / (2 * temperature)).softmax(1)
    if detach_targets:
        targets = targets.detach()
    first = -(targets * logits.log_softmax(1)).sum(1).mean()
    if second_direction == "none":
        return first
    targets = targets.T if second_direction == "transposed" else targets
    return (first - (targets * logits.T.log_softmax(1)).sum(1).mean()) / 2


def supcon(z, labels, temperature):
    """z (N, D); rows without a positive are skipped."""
    z = F.normalize(z, dim=1)
    losses = []
    for i in range(len(z)):
        others = [j for j in range(len(z)) if j != i]
        positives = [j for j in others if labels[j] == labels[i]]
        if positives:
            similarities = z @ z[i] / temperature
            losses.append(similarities[others].logsumexp(0) - similarities[positives].mean())
    return torch.stack(losses).mean() if losses else z.sum() * 0


def supcon_hard(z, positives, temperature, *, valid=None, weights=None):
    z = F.normalize(z, dim=2)
    valid = torch.ones(len(z), z.shape[1] - 1, dtype=torch.bool) if valid is None else valid
    weights = torch.ones(len(z)) if weights is None else weights
    losses, counted = [], []
    for anchor, candidates, keep, weight in zip(z[:, 0], z[:, 1:], valid, weights, strict=True):
        similarities = candidates @ anchor / temperature
        if keep[:positives].any():
            mean = similarities[:positives][keep[:positives]].mean()
            losses.append(weight * (similarities[keep].logsumexp(0) - mean))
            counted.append(weight)
    return torch.stack(losses).sum() / torch.stack(counted).sum()


def triplet_margin(anchor, positive, negative, margin=1.0):
    near, far = ((anchor - other + 1e-6).norm(dim=1) for other in (positive, negative))
    return (near - far + margin).relu().mean()
