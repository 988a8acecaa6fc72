"""Markup that cannot be broken by what it shows: text is escaped unless it is markup already."""

import html
from collections.abc import Iterable

from runner.results.sheet import Cell, Number, Sheet
from runner.results.terminal import cell_words

_EMPTY = ("br", "img", "meta")


class Html(str):
    """Text that is markup already."""


Content = str | Iterable["Content"]


def element(name: str, *content: Content, **attributes: str | None) -> Html:
    """An element; `class_` is the attribute class, `_` in a name is `-`, and None leaves an attribute out."""
    given = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    words = "".join(f' {key}="{escape(value)}"' for key, value in given.items())
    return Html(f"<{name}{words}>" if name in _EMPTY else f"<{name}{words}>{join(content)}</{name}>")


def join(content: Content) -> Html:
    """The markup of text, markup, and lists of these, one after the other."""
    if isinstance(content, str):
        return content if isinstance(content, Html) else escape(content)
    return Html("".join(map(join, content)))


def escape(text: str) -> Html:
    """Text as it reads, with what a browser would obey or not show in words."""
    if not text.isprintable():
        text = "".join(char if char.isprintable() or char in "\n\t" else f"\\x{ord(char):02x}" for char in text)
    return Html(html.escape(text))


def paragraph(*content: Content, class_: str | None = None) -> Html:
    return element("p", *content, class_=class_)


def fold(title: Content, *content: Content) -> Html:
    """What is shown when its title is clicked."""
    return element("details", element("summary", title), *content)


def scroll(label: str, content: Content) -> Html:
    """A box that scrolls by itself where its content is wider than the page, by keyboard too."""
    return element("div", content, class_="scroll", role="region", aria_label=label, tabindex="0")


def table(
    heads: list[str], rows: Iterable[list[Content]], label: str, numeric: Iterable[int] = (), note: Content = ""
) -> Html:
    """A table in a box of its own, the columns at `numeric` to the right."""
    right = set(numeric)

    def line(cells: Iterable[Content], name: str, **attributes: str) -> Html:
        return element(
            "tr",
            [
                element(name, cell, class_="number" if place in right else None, **attributes)
                for place, cell in enumerate(cells)
            ],
        )

    body = [line(row, "td") for row in rows]
    drawn = element("table", element("thead", line(heads, "th", scope="col")), element("tbody", body))
    return Html(scroll(label, drawn) + (paragraph(note, class_="note") if note else ""))


def sheet_table(sheet: Sheet, label: str) -> Html:
    """A sheet, the best value of each metric in bold; its notes follow."""
    numeric = [place for place in range(len(sheet.heads)) if any(isinstance(row[place], Number) for row in sheet.rows)]
    drawn = table(sheet.heads, [[_cell(cell) for cell in row] for row in sheet.rows], label, numeric)
    return Html(drawn + "".join(paragraph(note, class_="note") for note in sheet.notes))


def _cell(cell: Cell) -> Content:
    words = cell_words(cell)
    if isinstance(cell, Number) and cell.is_best:
        # Bold alone would be told to nobody who hears the page.
        return element("strong", words, element("span", " best", class_="spoken"))
    return words
