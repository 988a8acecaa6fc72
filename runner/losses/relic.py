"""The loss of ReLIC: tell the sample from the others, and do it alike under every augmentation.

Mitrovic et al. 2021, "Representation Learning via Invariant Causal Mechanisms", the objective of section 2.
As in the common implementation, the divergence is between the columns and the rows of one comparison, with
gradient on both sides; the paper's is between different pairs of augmentations.

Shapes: B rows on this rank, N on all ranks, V and T views, D width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from runner.group import Group
from runner.losses.comparison import Terms
from runner.losses.pairwise import Measured, pairwise_loss
from runner.losses.similarity import Clamp, bounded_scale, unit_rows


def relic(
    x: Tensor,
    y: Tensor,
    log_scale: Tensor,
    group: Group,
    *,
    alpha: float = 1.0,
    max_scale: float | None = 5.0,
    clamp: Clamp = "straight-through",
    measure_kl: bool = False,
    pairs: Sequence[tuple[int, int]] = ((0, 0),),
    block: int | None = None,
) -> Measured:
    """Softmax cross entropy of all rows against their own column plus `alpha` times the invariance term.

    S_ij = scale cos(x_i, y_j):
    loss = -1/N sum_i log softmax(row i)_i + alpha/N sum_i KL(softmax(column i) || softmax(row i)).

    A bias would cancel. The variant with the sigmoid loss instead of the cross entropy is `scl` with gamma 0.
    x, y and the keywords are as in `scl`.
    """
    with torch.autocast(x.device.type, enabled=False):
        x, y = (unit_rows(rows if rows.ndim == 3 else rows.unsqueeze(1)) for rows in (x, y))
        scale = bounded_scale(log_scale, max_scale, clamp).to(x.dtype)
        terms = Terms(cross_entropy=1.0, invariance=alpha, measure_kl=measure_kl)
        return pairwise_loss(x * scale, y, x.new_zeros(()), terms, group, pairs, block)
