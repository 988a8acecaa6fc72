"""What data give and methods take.

Shapes: B samples on this rank, C channels, H x W pixels.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Views of the same images, or columns of the same records; row i of each belongs to sample `ids[i]`."""

    global_views: list[Tensor] = field(default_factory=list)
    """Large views, each (B, C, H, W) float on the training device; in evaluation one, the image as it is."""

    local_views: list[Tensor] = field(default_factory=list)
    """Small views, each (B, C, h, w); empty without multi-crop."""

    labels: Tensor | None = None
    """(B,) int64, or (B, classes) floats 0 or 1, or None. Self-supervised methods must not look."""

    ids: Tensor | None = None
    """(B,) int64 on the CPU, the samples' places in the data set."""

    columns: Mapping[str, Tensor] = field(default_factory=dict)
    """Of records: each (B, ...) on the training device, token ids as int64."""
