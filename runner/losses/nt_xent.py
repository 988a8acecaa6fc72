"""NT-Xent, the loss of SimCLR: find the other view of a sample among both views of all samples.

Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations", eq. 1.

Shapes: B samples on this rank, N on all ranks, D width.
"""

import torch
from torch import Tensor

from runner.group import Group
from runner.losses.self_similarity import log_sum_of_others
from runner.losses.similarity import float_rows, unit_rows


def nt_xent(
    x_BD: Tensor,
    y_BD: Tensor,
    temperature: float | Tensor,
    group: Group,
    *,
    normalize: bool = True,
    block: int | None = None,
) -> Tensor:
    """Softmax cross entropy of each of the 2N rows against its partner, among all rows but itself.

    With z = (x_1 .. x_N, y_1 .. y_N) and S_ij = cos(z_i, z_j) / temperature:
    loss = 1/2N sum_i (log sum_{j != i} exp S_ij - S_i,partner(i)).

    The keywords are as in `info_nce`.
    """
    assert x_BD.shape == y_BD.shape, (x_BD.shape, y_BD.shape)
    with torch.autocast(x_BD.device.type, enabled=False):
        z_2BD = (unit_rows if normalize else float_rows)(torch.cat([x_BD, y_BD])) / temperature**0.5
        x_BD, y_BD = z_2BD.chunk(2)
        N = sum(group.sizes(len(x_BD)))
        weight = group.world / (2 * N)
        others = log_sum_of_others(z_2BD, z_2BD.new_full((len(z_2BD),), weight), group, block)
        partners: Tensor = 2 * torch.linalg.vecdot(x_BD, y_BD).sum(dtype=torch.float64)
        return (others - weight * partners).to(z_2BD.dtype)
