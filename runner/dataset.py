"""Data held in memory: images as every image data set of this project gives them, and rows of named columns.

Shapes: N images or rows, C channels, H x W pixels, L tokens.
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
    """One split of a data set whose samples have several parts, such as the texts of a function."""

    columns: dict[str, Tensor]
    """By name, each with N rows; texts are (N, L) int64 token ids, 0 for padding."""

    labels: Tensor | None
    """(N,) int64 in 0..len(classes)-1, or None for unlabelled rows."""

    classes: tuple[str, ...]
    vocabulary: int
    """Number of token ids, padding among them; 0 if no column holds tokens."""

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))
