"""Images in memory or in a file mapped to it, as every image data set of this project gives them.

Shapes: N images, C channels, H x W pixels, B indices.
"""

from collections import Counter
from collections.abc import Iterable
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


def choose(labels: Iterable[int], per_class: int | None, limit: int | None) -> list[int]:
    """Indices of the first `per_class` images of each class, of these the first `limit`; None: all."""
    seen: Counter[int] = Counter()
    chosen = []
    for index, label in enumerate(labels):
        seen[label] += 1
        if per_class is None or seen[label] <= per_class:
            chosen.append(index)
    return chosen[:limit]
