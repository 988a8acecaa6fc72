"""Sigmoid contrastive losses: every pair of rows is a binary question of its own.

SigLIP  Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training", equation in section 3.2
SCL     the same modulated by (1 - p)^gamma (focal loss, Lin et al. 2017, eq. 4), with the invariance term of
        ReLIC (Mitrovic et al. 2021)

Shapes: B rows on this rank, N on all ranks, V and T views, D width.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from runner.group import Group
from runner.losses.comparison import Terms
from runner.losses.pairwise import Measured, pairwise_loss
from runner.losses.similarity import Clamp, bounded_scale, unit_rows


def scl(
    x: Tensor,
    y: Tensor,
    log_scale: Tensor,
    bias: Tensor,
    group: Group,
    *,
    gamma: float = 1.0,
    alpha: float = 0.0,
    max_scale: float | None = 5.0,
    clamp: Clamp = "straight-through",
    filter_threshold: float | None = None,
    measure_kl: bool = False,
    pairs: Sequence[tuple[int, int]] = ((0, 0),),
    block: int | None = None,
) -> Measured:
    """Modulated sigmoid loss of all pairs of rows plus `alpha` times the invariance term.

    z_ij = l_ij (scale cos(x_i, y_j) + bias) with l = 1 for i = j and -1 otherwise, p = sigmoid(z):
    loss = -1/N sum_ij (1 - p_ij)^gamma log p_ij + alpha/N sum_i KL(softmax(column i) || softmax(row i)).

    x and y are raw projections, (B, D); or (B, V, D) and (B, T, D), and the loss is the mean over `pairs` of
    views (v, t). scale = exp(log_scale); for `max_scale` and `clamp` see `bounded_scale`.
    With `filter_threshold`, negatives with (1 - p)^gamma up to it are left out and no pair is modulated.
    The KL term is measured where alpha is not 0 or `measure_kl` asks for it.
    `block` is the size of the tiles that are worked on; no result depends on it.
    """
    with torch.autocast(x.device.type, enabled=False):
        x, y = (unit_rows(rows if rows.ndim == 3 else rows.unsqueeze(1)) for rows in (x, y))
        scale = bounded_scale(log_scale, max_scale, clamp).to(x.dtype)
        cutoff = None if filter_threshold is None else logit_of_penalty(filter_threshold, gamma)
        terms = Terms(gamma=gamma, cutoff=cutoff, invariance=alpha, measure_kl=measure_kl)
        return pairwise_loss(x * scale, y, bias.to(x.dtype), terms, group, pairs, block)


def siglip(
    x: Tensor,
    y: Tensor,
    log_scale: Tensor,
    bias: Tensor,
    group: Group,
    *,
    max_scale: float | None = None,
    block: int | None = None,
) -> Tensor:
    """SigLIP's loss: `scl` without modulation and without invariance. x, y: (B, D) raw projections."""
    return scl(x, y, log_scale, bias, group, gamma=0.0, max_scale=max_scale, block=block).loss


def logit_of_penalty(threshold: float, gamma: float) -> float:
    """The logit t with sigmoid(t)^gamma = threshold, so that a filter is one comparison with t."""
    assert 0 <= threshold < 1, threshold
    if gamma == 0.0 or threshold == 0.0:
        return -math.inf  # every penalty is above the threshold
    log_p = math.log(threshold) / gamma
    return log_p - math.log(-math.expm1(log_p))
