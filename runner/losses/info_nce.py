"""InfoNCE: which of all the rows is the partner of this one, a softmax cross entropy.

InfoNCE  van den Oord et al. 2018, "Representation Learning with Contrastive Predictive Coding", eq. 4
CLIP     Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision", figure 3
MoCo     He et al. 2020, "Momentum Contrast for Unsupervised Visual Representation Learning", eq. 1

Shapes: B rows on this rank, K rows in the queue, D width.
"""

import torch
from torch import Tensor

from runner.group import Group
from runner.losses.comparison import Terms
from runner.losses.pairwise import pairwise_loss
from runner.losses.similarity import Clamp, bounded_scale, float_rows, unit_rows


def info_nce(
    x_BD: Tensor,
    y_BD: Tensor,
    temperature: float | Tensor,
    group: Group,
    *,
    symmetric: bool = True,
    normalize: bool = True,
    queue_KD: Tensor | None = None,
    in_batch: bool = True,
    block: int | None = None,
) -> Tensor:
    """Softmax cross entropy of every row of x against the rows of y, and if `symmetric` the other way too.

    S_ij = cos(x_i, y_j) / temperature, or x_i . y_j / temperature without `normalize`:
    loss = -1/N sum_i log softmax(row i of S)_i, if symmetric the mean of that and the same of S^T.

    `temperature` is a number or a tensor, which then gets a gradient. A queue adds its rows, the same on every
    rank and without gradient, to the negatives of x; MoCo, `in_batch=False`, has no others. Only the direction
    from x can have a queue. No result depends on `block`, the size of the tiles that are worked on.
    """
    assert not symmetric or (queue_KD is None and in_batch), "a queue is for one direction"
    with torch.autocast(x_BD.device.type, enabled=False):
        rows = unit_rows if normalize else float_rows
        x_BD, y_BD = rows(x_BD), rows(y_BD)
        queue_KD = None if queue_KD is None else rows(queue_KD).to(x_BD.dtype)
        weight = 0.5 if symmetric else 1.0
        terms = Terms(cross_entropy=weight, column_cross_entropy=1 - weight, in_batch=in_batch)
        x_B1D, y_B1D = (x_BD / temperature).unsqueeze(1), y_BD.unsqueeze(1)
        return pairwise_loss(x_B1D, y_B1D, x_BD.new_zeros(()), terms, group, block=block, queue_QD=queue_KD).loss


def clip(
    x_BD: Tensor,
    y_BD: Tensor,
    log_scale: Tensor,
    group: Group,
    *,
    max_scale: float | None = 100.0,
    clamp: Clamp = "straight-through",
    block: int | None = None,
) -> Tensor:
    """CLIP's loss: `info_nce` in both directions with a learnt scale. x, y: (B, D) raw projections.

    For `max_scale` and `clamp` see `bounded_scale`.
    """
    with torch.autocast(x_BD.device.type, enabled=False):
        temperature = 1 / bounded_scale(log_scale, max_scale, clamp)
    return info_nce(x_BD, y_BD, temperature, group, block=block)
