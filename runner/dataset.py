"""Data sets held in memory, as every data plug-in of this project gives them.

Shapes: N samples, C channels of an image or classes, H x W pixels, L tokens, B indices.
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


@dataclass(frozen=True)
class Records:
    """One split of any other data set: named columns, row i of each belonging to sample i."""

    columns: dict[str, Tensor]
    """(N, ...) each, such as `sequence`: (N, L) token ids, 0 for padding."""

    labels: Tensor | None
    """(N,) int64 in 0..len(classes)-1; or (N, C) float, 1 for each class a sample has; or None."""

    classes: tuple[str, ...]
    vocabulary: int
    """Number of token ids, padding included; 0 where no column holds tokens."""

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))
