"""A sheet as Markdown or LaTeX, for a page or a paper."""

import re

from runner.results.sheet import Cell, Number, Sheet
from runner.results.terminal import cell_words

_MARKDOWN = re.compile(r"([\\`*_\[\]<>|])")
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{char: f"\\{char}" for char in "&%$#_{}"},
    "±": r"$\pm$",
}


def markdown(sheet: Sheet) -> str:
    """A table of GitHub's dialect, numbers to the right and the best in bold; the notes follow."""
    numeric = _numeric(sheet)
    rule = ["---:" if right else "---" for right in numeric]
    lines = [[_markdown_text(head) for head in sheet.heads], rule]
    lines += [[_markdown_cell(cell) for cell in row] for row in sheet.rows]
    table = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
    title = f"{_markdown_text(sheet.title)}\n\n" if sheet.title else ""
    return title + table + "".join(f"\n{_markdown_text(note)}\n" for note in sheet.notes)


def latex(sheet: Sheet) -> str:
    """A tabular with the rules of booktabs, numbers in math, the best in bold; the notes are comments."""
    columns = "".join("r" if right else "l" for right in _numeric(sheet))
    notes = ["needs \\usepackage{booktabs}", *([sheet.title] if sheet.title else []), *sheet.notes]
    lines = [f"% {' '.join(note.split())}" for note in notes]
    lines += [
        rf"\begin{{tabular}}{{{columns}}}",
        r"  \toprule",
        _latex_row(map(latex_text, sheet.heads)),
        r"  \midrule",
    ]
    lines += [_latex_row(map(_latex_cell, row)) for row in sheet.rows]
    return "\n".join([*lines, r"  \bottomrule", r"\end{tabular}", ""])


def latex_text(text: str) -> str:
    """Text that LaTeX prints as it is."""
    words = "".join(_LATEX.get(char, char) for char in " ".join(text.split()))
    # After the end of a row a star or a bracket would be of that end: how much room to leave there.
    return f"{{{words[0]}}}{words[1:]}" if words.startswith(("[", "*")) else words


def _numeric(sheet: Sheet) -> list[bool]:
    return [any(isinstance(row[place], Number) for row in sheet.rows) for place in range(len(sheet.heads))]


def _markdown_text(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))


def _markdown_cell(cell: Cell) -> str:
    words = _markdown_text(cell_words(cell))
    return f"**{words}**" if isinstance(cell, Number) and cell.is_best else words


def _latex_row(cells: "map[str]") -> str:
    return f"  {' & '.join(cells)} \\\\"


def _latex_cell(cell: Cell) -> str:
    if not isinstance(cell, Number):
        return latex_text(cell)
    value, half = (_latex_number(words) for words in cell.words())
    value = rf"\mathbf{{{value}}}" if cell.is_best else value
    note = rf"\ (\mathrm{{{latex_text(cell.note)}}})" if cell.note else ""
    spread = rf" \pm {half}" if half else ""
    return f"${value}{spread}{note}$"


def _latex_number(words: str) -> str:
    """`3.2e-07` as a power of ten."""
    if words in ("nan", "inf", "-inf"):
        return rf"\mathrm{{{words}}}"
    digits, exponential, power = words.partition("e")
    return rf"{digits} \times 10^{{{int(power)}}}" if exponential else digits
