"""In which order the tiles of an N x N comparison are visited, and the memory they are computed in.

Shapes: B rows on this rank, N on all ranks, I x J one tile.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = {"cpu": 256, "cuda": 2048}
"""Rows of a tile by device type: on a CPU the tiles at work fit in the second-level cache."""

KEPT_BYTES = {"cpu": 32 * 2**20, "cuda": 256 * 2**20}
"""Tiles computed by the first of two walks are kept for the second until they take this much."""


class Tile(NamedTuple):
    """A tile of S at (rows, columns) together with its mirror at (columns, rows)."""

    rows: slice
    """Own rows."""

    columns: slice

    mutual: bool
    """The columns are own ones too, and other ones than the rows: the mirror is not visited by itself."""

    diagonal: bool
    """Rows and columns are the same."""

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start


def walk(own: int, total: int, block: int) -> Iterator[Tile]:
    """Every tile that holds own rows or own columns, once; rows 0..own are this rank's."""
    owns = [slice(start, min(start + block, own)) for start in range(0, own, block)]
    others = [slice(start, min(start + block, total)) for start in range(own, total, block)]
    for index, rows in enumerate(owns):
        yield Tile(rows, rows, mutual=False, diagonal=True)
        for columns in owns[index + 1 :]:
            yield Tile(rows, columns, mutual=True, diagonal=False)
        for columns in others:
            yield Tile(rows, columns, mutual=False, diagonal=False)


class Workspace:
    """Reused memory for tiles, because fresh pages cost more than the arithmetic done in them."""

    def __init__(self, like: Tensor, block: int, kept: int) -> None:
        """Three work buffers, and room for at most `kept` tiles that outlive a walk."""
        room = KEPT_BYTES.get(like.device.type, 0) // (2 * block * block * like.element_size())
        self.buffers = like.new_empty(4 + min(kept, room), 2 * block * block)

    def keeps(self, number: int) -> bool:
        """Whether tile `number` has memory of its own."""
        return number + 4 < len(self.buffers)

    def tile(self, number: int, sides: int, tile: Tile) -> Tensor:
        """(sides, I, J) for the similarities of tile `number`, counted over all walks of one kind."""
        return self._view(number + 4 if self.keeps(number) else 0, sides, tile)

    def spare(self, sides: int, tile: Tile) -> list[Tensor]:
        """Three further (sides, I, J) buffers."""
        return [self._view(index, sides, tile) for index in (1, 2, 3)]

    def _view(self, index: int, sides: int, tile: Tile) -> Tensor:
        I, J = tile.shape
        return self.buffers[index, : sides * I * J].view(sides, I, J)
