"""Samples in memory or in a file mapped to it, as every data set of this project gives them.

Shapes: N samples, C channels, H x W pixels, L tokens, B indices.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class ImageSet:
    """One split of an image data set: uint8 pixels, so that even large sets fit in memory."""

    images: Tensor
    """(N, C, H, W) uint8; with `rows`, of other samples, too."""

    labels: Tensor | None
    """(N,) int64 in 0..len(classes)-1, or None for unlabelled images."""

    classes: tuple[str, ...]
    mean: tuple[float, ...]
    """Per channel, of pixels scaled to 0..1; what `normalise` subtracts."""

    std: tuple[float, ...]
    rows: Tensor | None = None
    """(N,) int64 on the CPU: which of `images` are the samples, so that a part of a mapped file needs no copy.
    None: all of them."""

    def __len__(self) -> int:
        return len(self.images if self.rows is None else self.rows)

    @property
    def nbytes(self) -> int:
        """What the pixels of the samples take."""
        return len(self) * self.images[:1].nbytes

    @property
    def columns(self) -> dict[str, Tensor]:
        return {"images": self.images}

    @property
    def inputs(self) -> int:
        """What an encoder is built for: the number of channels."""
        return self.images.shape[1]

    def take(self, ids_B: Tensor) -> dict[str, Tensor]:
        """The columns of some samples; `ids_B` lies on the CPU."""
        return {"images": self.images[self._places(ids_B).to(self.images.device)]}

    def subset(self, ids_B: Tensor) -> Self:
        """The data set of these samples only."""
        images = self.images[self._places(ids_B)]
        return replace(self, images=images, labels=_select(self.labels, ids_B), rows=None)

    def part(self, ids_B: Tensor) -> Self:
        """The data set of these samples only, over the same pixels."""
        return replace(self, labels=_select(self.labels, ids_B), rows=self._places(ids_B))

    def to(self, device: torch.device) -> Self:
        """The same samples on a device."""
        images = self.images if self.rows is None else self.images[self.rows]
        return replace(self, images=images.to(device), labels=_move(self.labels, device), rows=None)

    def _places(self, ids_B: Tensor) -> Tensor:
        return ids_B if self.rows is None else self.rows[ids_B]


@dataclass(frozen=True)
class Records:
    """One split of a data set of anything but images: named columns, one row a sample."""

    columns: dict[str, Tensor]
    """Each (N, ...); token ids are integers of any width, (N, L), with 0 for padding at the end."""

    labels: Tensor | None
    """(N,) int64 classes, (N, len(classes)) floats 0 or 1 where a sample may have several, or None."""

    classes: tuple[str, ...]
    vocabulary: int = 0
    """Number of token ids, 0 where there are no tokens."""

    lengths: Mapping[str, Tensor] = field(default_factory=dict)
    """(N,) tokens of each sample on the CPU, of columns that are cut to the longest sample of a batch."""

    texts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What evaluations read beside the tensors, such as names; one string a sample."""

    tokenizer: str | None = None
    """What the token ids mean, where a choice of tokenizers makes them: its `describe`."""

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    @property
    def nbytes(self) -> int:
        """What the columns take."""
        return sum(column.nbytes for column in self.columns.values())

    @property
    def inputs(self) -> int:
        """What an encoder is built for: the number of token ids."""
        return self.vocabulary

    def take(self, ids_B: Tensor) -> dict[str, Tensor]:
        """The columns of some samples, integers as int64; `ids_B` lies on the CPU."""
        rows = {}
        for name, column in self.columns.items():
            if name in self.lengths and len(ids_B):
                column = column[:, : max(1, int(self.lengths[name][ids_B].max()))]
            found = column[ids_B.to(column.device)]
            rows[name] = found if found.is_floating_point() else found.long()
        return rows

    def subset(self, ids_B: Tensor) -> Self:
        """The data set of these samples only."""
        return replace(
            self,
            columns={name: column[ids_B] for name, column in self.columns.items()},
            labels=_select(self.labels, ids_B),
            lengths={name: length[ids_B] for name, length in self.lengths.items()},
            texts={name: tuple(text[i] for i in ids_B.tolist()) for name, text in self.texts.items()},
        )

    def part(self, ids_B: Tensor) -> Self:
        """The same as `subset`: records are in memory, and small beside pixels."""
        return self.subset(ids_B)

    def to(self, device: torch.device) -> Self:
        """The same samples on a device; lengths stay on the CPU, where batches are planned."""
        columns = {name: column.to(device) for name, column in self.columns.items()}
        return replace(self, columns=columns, labels=_move(self.labels, device))


Split = ImageSet | Records


def _select(labels: Tensor | None, ids_B: Tensor) -> Tensor | None:
    return None if labels is None else labels[ids_B]


def _move(labels: Tensor | None, device: torch.device) -> Tensor | None:
    return None if labels is None else labels.to(device)


def choose(labels: Iterable[int], per_class: int | None, limit: int | None) -> list[int]:
    """Indices of the first `per_class` images of each class, of these the first `limit`; None: all."""
    seen: Counter[int] = Counter()
    chosen = []
    for index, label in enumerate(labels):
        seen[label] += 1
        if per_class is None or seen[label] <= per_class:
            chosen.append(index)
    return chosen[:limit]
