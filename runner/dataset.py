"""Images held in memory, as every image data set of this project gives them.

Shapes: N images, C channels, H x W pixels, B indices.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ImageSet:
    """One split of an image data set: uint8 pixels, so that even large sets fit in memory."""

    images: Tensor
    """(N, C, H, W) uint8."""

    labels: Tensor | None
    """(N,) int64 in 0..len(classes)-1, or None for unlabelled images."""

    classes: tuple[str, ...]
    mean: tuple[float, ...]
    """Per channel, of pixels scaled to 0..1; what `normalise` subtracts."""

    std: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.images)
