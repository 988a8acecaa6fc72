"""What data give and methods take.

Shapes: B samples on this rank, C channels, H x W pixels.
"""

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Views of the same samples, row i of each belonging to sample `ids[i]`."""

    global_views: list[Tensor]
    """Large views, each (B, C, H, W) float on the training device."""

    local_views: list[Tensor] = field(default_factory=list)
    """Small views, each (B, C, h, w); empty without multi-crop."""

    labels: Tensor | None = None
    """(B,) int64, or None for unlabelled data. Self-supervised methods must not look."""

    ids: Tensor | None = None
    """(B,) int64, the samples' places in the data set."""
