"""In which order the tiles of an N x N comparison are visited, and the memory they are computed in.

Shapes: B rows on this rank, N on all ranks, I x J a tile.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from runner.group import Group

BLOCK = {"cpu": 384, "cuda": 2048}
"""Rows of a tile by device type; on a CPU, 256 to 512 differ by a few per cent."""

KEPT_BYTES = {"cpu": 32 * 2**20, "cuda": 256 * 2**20}
"""How much memory the tiles of one walk may take that are kept for the next."""


def default_block(device: torch.device) -> int:
    return BLOCK.get(device.type, 1024)


class Tile(NamedTuple):
    """A tile of S at (rows, columns), together with its mirror at (columns, rows)."""

    rows: slice
    """Own rows."""

    columns: slice
    """Own rows or those of other ranks."""

    mutual: bool
    """The columns are own ones too, and other ones than the rows: nobody else visits the mirror."""

    diagonal: bool
    """Rows and columns are the same ones: the mirror is the transpose."""

    queued: bool = False
    """The columns are those of a queue: they have no mirror."""

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start


def gather_own_first(rows: Tensor, group: Group) -> Tensor:
    """Rows of all ranks in rank order, beginning with this rank."""
    if group.world == 1:
        return rows
    start = sum(group.sizes(len(rows))[: group.rank])
    return torch.roll(group.all_gather(rows), -start, 0)


def walk(own: int, total: int, block: int) -> Iterator[Tile]:
    """Every tile with own rows or own columns, once; the rows before `own` are this rank's."""
    owns, others = blocks(0, own, block), blocks(own, total, block)
    for index, rows in enumerate(owns):
        yield Tile(rows, rows, mutual=False, diagonal=True)
        for columns in owns[index + 1 :]:
            yield Tile(rows, columns, mutual=True, diagonal=False)
        for columns in others:
            yield Tile(rows, columns, mutual=False, diagonal=False)


def walk_queue(own: int, queued: int, block: int) -> Iterator[Tile]:
    """Every tile of own rows and columns of the queue."""
    for rows in blocks(0, own, block):
        for columns in blocks(0, queued, block):
            yield Tile(rows, columns, mutual=False, diagonal=False, queued=True)


def blocks(start: int, stop: int, block: int) -> list[slice]:
    return [slice(first, min(first + block, stop)) for first in range(start, stop, block)]


class Workspace:
    """Reused memory for tiles: on a CPU, touching fresh pages costs more than the arithmetic done in them."""

    def __init__(self, like: Tensor, block: int, keep: int, sides: int = 2) -> None:
        """Four buffers, and up to `keep` more for the similarities that a second walk needs again."""
        size = sides * block * block
        self.kept = min(keep, KEPT_BYTES.get(like.device.type, 0) // (size * like.element_size()))
        self.buffers = like.new_empty(4 + self.kept, size)

    def keeps(self, number: int) -> bool:
        """Whether the similarities of tile `number` stay until they are overwritten by their slopes."""
        return number < self.kept

    def similarities(self, number: int, sides: int, tile: Tile) -> Tensor:
        """(sides, I, J) for tile `number`."""
        return self._view(4 + number if self.keeps(number) else 0, sides, tile)

    def spare(self, sides: int, tile: Tile) -> tuple[Tensor, Tensor, Tensor]:
        """Three more of that shape."""
        return self._view(1, sides, tile), self._view(2, sides, tile), self._view(3, sides, tile)

    def _view(self, index: int, sides: int, tile: Tile) -> Tensor:
        rows, columns = tile.shape
        return self.buffers[index, : sides * rows * columns].view(sides, rows, columns)
