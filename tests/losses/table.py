"""Every loss of embeddings but the sigmoid ones, in one shape: what all of them must keep is tested on this table.

A loss gets x and y (B, D), log_scale, integer labels (B,), the group and the options of the case; inputs it
has no use for it ignores. `naive` has the same formulas with everything in memory.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from runner.losses.info_nce import clip, info_nce
from runner.losses.nt_xent import nt_xent
from runner.losses.soft_targets import soft_target_cross_entropy
from runner.losses.supcon import supcon
from runner.losses.supcon_hard import supcon_hard
from runner.losses.triplet import triplet_margin
from tests.losses import naive


class Case(NamedTuple):
    loss: Callable[..., Tensor]
    """(x, y, log_scale, labels, group, **options)"""

    naive: Callable[..., Tensor]
    """(x, y, log_scale, labels)"""

    blockwise: bool = True
    """Takes `block`."""


def labels_of(rows: Tensor) -> Tensor:
    """Labels by the number of a sample; some classes have one sample only."""
    return (rows * rows * 3) % 11 + (rows == 4) * 20


def queue(like: Tensor) -> Tensor:
    """13 rows, the same for everybody."""
    generator = torch.Generator().manual_seed(7)
    return torch.randn(13, like.shape[1], dtype=torch.float64, generator=generator).to(like.dtype)


def views(x: Tensor, y: Tensor) -> Tensor:
    return torch.stack([x, y, 0.5 * x - y.flip(1)], 1)


def anchors(x: Tensor, y: Tensor) -> Tensor:
    """(B, 1 + 2 + 3, D)"""
    return torch.stack([x, y, x + y.flip(1), -x, y.roll(1, 1), x.flip(1)], 1)


def padding(labels: Tensor) -> dict[str, Any]:
    """Places that do not count, for some anchors all positives or everything, and weights."""
    valid = (labels[:, None] + torch.arange(5)) % 3 != 0
    valid[labels == 3, :2] = False
    valid[labels == 5] = False
    return {"valid_BM": valid, "weights_B": 1.0 + labels}


def _info_nce(**options: Any) -> Case:
    def loss(x, y, s, labels, group, **more):
        extra = {"queue_KD": queue(x)} if with_queue else {}
        return info_nce(x, y, (-s).exp(), group, **options, **extra, **more)

    def by_formula(x, y, s, labels):
        return naive.info_nce(x, y, (-s).exp(), **options, queue=queue(x) if with_queue else None)

    with_queue = options.pop("with_queue", False)
    return Case(loss, by_formula)


def _soft_targets(**options: Any) -> Case:
    return Case(
        lambda x, y, s, labels, group, **more: soft_target_cross_entropy(x, y, (-s).exp(), group, **options, **more),
        lambda x, y, s, labels: naive.soft_targets(x, y, (-s).exp(), **options),
    )


CASES = {
    "nt_xent": Case(
        lambda x, y, s, labels, group, **more: nt_xent(x, y, (-s).exp(), group, **more),
        lambda x, y, s, labels: naive.nt_xent(x, y, (-s).exp()),
    ),
    "info_nce": _info_nce(),
    "info_nce, one direction": _info_nce(symmetric=False),
    "info_nce, products": _info_nce(normalize=False),
    "info_nce, batch and queue": _info_nce(symmetric=False, with_queue=True),
    "info_nce, queue": _info_nce(symmetric=False, in_batch=False, with_queue=True),
    "clip": Case(
        lambda x, y, s, labels, group, **more: clip(x, y, s, group, **more),
        lambda x, y, s, labels: naive.info_nce(x, y, (-s).exp()),
    ),
    "soft targets": _soft_targets(),
    "soft targets, transposed": _soft_targets(second_direction="transposed"),
    "soft targets, one direction": _soft_targets(second_direction="none"),
    "soft targets, cosines": _soft_targets(normalize=True),
    "soft targets, detached": _soft_targets(second_direction="transposed", detach_targets=True),
    "supcon": Case(
        lambda x, y, s, labels, group, **more: supcon(x + y, labels, (-s).exp(), group, **more),
        lambda x, y, s, labels: naive.supcon(x + y, labels, (-s).exp()),
    ),
    "supcon, views": Case(
        lambda x, y, s, labels, group, **more: supcon(views(x, y), labels, (-s).exp(), group, **more),
        lambda x, y, s, labels: naive.supcon(views(x, y).flatten(0, 1), labels.repeat_interleave(3), (-s).exp()),
    ),
    "supcon_hard": Case(
        lambda x, y, s, labels, group: supcon_hard(anchors(x, y), 2, (-s).exp(), group),
        lambda x, y, s, labels: naive.supcon_hard(anchors(x, y), 2, (-s).exp()),
        blockwise=False,
    ),
    "supcon_hard, padded": Case(
        lambda x, y, s, labels, group: supcon_hard(anchors(x, y), 2, (-s).exp(), group, **padding(labels)),
        lambda x, y, s, labels: naive.supcon_hard(
            anchors(x, y), 2, (-s).exp(), valid=padding(labels)["valid_BM"], weights=padding(labels)["weights_B"]
        ),
        blockwise=False,
    ),
    "triplet": Case(
        lambda x, y, s, labels, group: triplet_margin(x, y, x + y.flip(1) / 2, group),
        lambda x, y, s, labels: naive.triplet_margin(x, y, x + y.flip(1) / 2),
        blockwise=False,
    ),
}
