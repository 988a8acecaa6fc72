"""Negative cosine similarity: what the methods minimise that learn from positives alone.

BYOL     Grill et al. 2020, "Bootstrap Your Own Latent", equation 2 up to a factor and a constant
SimSiam  Chen & He 2021, "Exploring Simple Siamese Representation Learning", equations 1 to 4

Shapes: B rows on this rank, D width.
"""

import torch
from torch import Tensor

from runner.group import Group
from runner.losses.rows import mean_part
from runner.losses.similarity import unit_rows


def negative_cosine(x_BD: Tensor, y_BD: Tensor, group: Group) -> Tensor:
    """-cos(x_i, y_i), mean over the rows of all ranks, with gradient for both; from -1 to 1."""
    with torch.autocast(x_BD.device.type, enabled=False):
        return mean_part(-torch.linalg.vecdot(unit_rows(x_BD), unit_rows(y_BD)), group)


def symmetric_negative_cosine(
    predictions: tuple[Tensor, Tensor], targets: tuple[Tensor, Tensor], group: Group
) -> Tensor:
    """Half the negative cosines of (prediction 1, target 2) and (prediction 2, target 1); targets are constants.

    Each is (B, D), of view 1 and view 2. With the projections of a momentum network as targets it is BYOL's
    loss, 2 - 2 cos, divided by 4 (its two directions are summed) and shifted; with the network's own ones, SimSiam's.
    """
    (p1_BD, p2_BD), (t1_BD, t2_BD) = predictions, targets
    return (negative_cosine(p1_BD, t2_BD.detach(), group) + negative_cosine(p2_BD, t1_BD.detach(), group)) / 2
