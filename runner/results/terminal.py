"""A sheet on a terminal, with as many metrics as there is room for."""

import re
import textwrap
from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console

from runner.results.sheet import Cell, Number, Sheet

NARROWEST_HEAD = 16
"""Columns within which the name of a metric is not broken."""

FOLDED = "not counted"
"""The column of words, which may take several lines."""

_FOLDED_WIDTH = 40
_GAP = 2


def print_sheet(sheet: Sheet, console: Console) -> None:
    """The title, the table, then its notes, a line each; wider than the terminal only where settings alone are."""
    bold = ("\x1b[1m", "\x1b[0m") if console.color_system else ("", "")
    # Not rich's own table: it takes seconds for a thousand lines.
    console.file.write("".join(f"{line}\n" for line in sheet_lines(sheet, bold)))


def sheet_lines(sheet: Sheet, bold: tuple[str, str] = ("", "")) -> Iterator[str]:
    """What is printed, line by line; `bold` begins and ends what stands out."""
    widths = [_width(sheet, place) for place in range(len(sheet.heads))]
    if sheet.title:
        yield printable(sheet.title)
    heads = [wrap_name(printable(head), width).split("\n") for head, width in zip(sheet.heads, widths, strict=True)]
    depth = max(map(len, heads), default=0)
    yield from _join([[""] * (depth - len(lines)) + lines for lines in heads], widths, [bold] * len(widths))
    for row in sheet.rows:
        cells = [_cell_lines(cell, width) for cell, width in zip(row, widths, strict=True)]
        styles = [bold if isinstance(cell, Number) and cell.is_best else ("", "") for cell in row]
        yield from _join(cells, widths, styles)
    yield from map(printable, sheet.notes)


def fit(sheet: Sheet, ranked: Sequence[str], width: int) -> Sheet:
    """The sheet with those of its metrics, the first of `ranked` first, that `width` columns have room for."""
    widths = {head: _width(sheet, place) for place, head in enumerate(sheet.heads)}
    room = width - sum(widths[head] + _GAP for head in sheet.heads if head not in sheet.metrics)
    chosen: set[str] = set()
    for metric in (name for name in ranked if name in sheet.metrics):
        room -= widths[metric] + _GAP
        if chosen and room < -_GAP:
            break
        chosen.add(metric)
    return sheet.keep(chosen)


def cell_words(cell: Cell) -> str:
    """`0.861 ± 0.012 (n=2)`."""
    if not isinstance(cell, Number):
        return cell
    value, half = cell.words()
    return value + (f" ± {half}" if half else "") + (f" ({cell.note})" if cell.note else "")


def wrap_name(name: str, width: int) -> str:
    """A name on several lines of at most `width` columns, broken after / and _ where it can be."""
    lines = [""]
    for part in re.findall(r"[^/_ ]*[/_ ]*", name):
        if lines[-1] and len(lines[-1] + part.rstrip()) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(line.rstrip() for line in lines)


def printable(text: str) -> str:
    """Text without what a terminal would obey."""
    return (
        text if text.isprintable() else "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)
    )


def _width(sheet: Sheet, place: int) -> int:
    cells = max([0, *(cell_len(printable(cell_words(row[place]))) for row in sheet.rows)])
    if sheet.heads[place] == FOLDED:
        return max(len(FOLDED), min(cells, _FOLDED_WIDTH))
    head = wrap_name(printable(sheet.heads[place]), max(NARROWEST_HEAD, cells))
    return max(cells, *map(cell_len, head.split("\n")))


def _cell_lines(cell: Cell, width: int) -> list[str]:
    words = printable(cell_words(cell))
    return [words] if cell_len(words) <= width else textwrap.wrap(words, width)


def _join(columns: list[list[str]], widths: list[int], styles: list[tuple[str, str]]) -> Iterator[str]:
    """The lines of one row, whose cells may have several each."""
    for at in range(max(map(len, columns), default=0)):
        line = []
        for lines, width, (begin, end) in zip(columns, widths, styles, strict=True):
            words = lines[at] if at < len(lines) else ""
            line.append(f"{begin}{words}{end}" + " " * (width + _GAP - cell_len(words)))
        yield "".join(line).rstrip()
