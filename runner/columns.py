"""Columns side by side within the width of a terminal: those that count least are left out, and no cell is cut."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from runner.tables import new_table

GAP = 2


@dataclass(frozen=True)
class Column:
    """One column; those that count least are left out first where the terminal is narrow."""

    head: str
    cells: list[Text]
    weight: int
    shrinks_to: int | None = None
    reserve: int = 0
    """The width that its cells may come to have; so much is kept free for it from the start."""

    @property
    def width(self) -> int:
        return max(len(self.head), *(cell.cell_len for cell in self.cells)) if self.cells else len(self.head)

    @property
    def least_width(self) -> int:
        return max(self.reserve, self.width if self.shrinks_to is None else min(self.width, self.shrinks_to))


def fit(columns: Sequence[Column], width: int) -> list[tuple[Column, int]]:
    """The columns that fit side by side, each with its room: those of most weight come first."""
    chosen: list[Column] = []
    for column in sorted(columns, key=lambda column: -column.weight):
        if not chosen or _total([*chosen, column]) <= width:
            chosen.append(column)
    kept = [column for column in columns if any(column is each for each in chosen)]
    free = max(width - _total(kept), 0)
    found = []
    for column in kept:
        room = min(max(column.width, column.least_width), column.least_width + free)
        free -= room - column.least_width
        found.append((column, room))
    return found


def _total(columns: Sequence[Column]) -> int:
    return sum(column.least_width + GAP for column in columns) - GAP


def fits(columns: Sequence[Column], width: int) -> bool:
    """Whether all of them have room side by side."""
    return _total(columns) <= width


def fitted_table(columns: Sequence[Column], width: int, counts: str = "") -> Table:
    """The columns that fit, each as wide as its cells; below them `counts`, and what had no room."""
    shown = [column for column, _ in fit(columns, width)]
    heads = [column.head or "notes" for column in columns if not any(column is each for each in shown)]
    note = f"no room for {', '.join(heads)}: a wider terminal or --json has {'it' if len(heads) == 1 else 'them'}"
    table = new_table([column.head for column in shown], "\n".join(filter(None, [counts, note if heads else ""])))
    for line in zip(*(column.cells for column in shown), strict=True):
        table.add_row(*line)
    return table
