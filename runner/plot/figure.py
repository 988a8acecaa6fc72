"""How every picture looks: colours that print and that everybody can tell apart, and how it becomes a file."""

import atexit
import io
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from runner.results.records import write_file

FORMATS = (".png", ".pdf", ".svg")

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Okabe and Ito's, the darkest first; yellow is left out, which is lost on white paper."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":")

_BASES = (("XDG_CONFIG_HOME", ".config"), ("XDG_CACHE_HOME", ".cache"))

MOST_LABELS = 40
"""Settings with a line of their own; more would not be readable."""

MOST_IN_LEGEND = 14


def new_figure(title: str) -> tuple[Any, Any]:
    """A figure and its axes."""
    lend_folder()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Not pyplot: it keeps global state and may look for a display.
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.grid(True, color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    # Above the whole figure: long labels leave the axes narrower than the title.
    figure.suptitle(literal(title), fontsize=11, x=0.01, horizontalalignment="left")
    return figure, axes


def lend_folder() -> None:
    """Give matplotlib a folder for this process where its own cannot be written: else it complains of that twice.

    Call it before the first import of matplotlib.
    """
    home = Path(os.path.expanduser("~"))
    usual = [Path(os.environ.get(name) or home / default) for name, default in _BASES]
    if "MPLCONFIGDIR" in os.environ or all(_can_have(base / "matplotlib") for base in usual):
        return
    folder = tempfile.mkdtemp(prefix="matplotlib-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["MPLCONFIGDIR"] = folder


def _can_have(folder: Path) -> bool:
    """Whether files can be written into a folder, which may have to be made."""
    there = next(place for place in (folder, *folder.parents) if os.path.exists(place))
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def literal(text: str) -> str:
    """Text that is drawn as it is: a pair of dollars would be taken for a formula, and may be none."""
    return text.replace("$", r"\$")


def style(place: int) -> dict[str, Any]:
    """Colour, marker and line of a series: each tells it apart, without the others too."""
    return {
        "color": COLORS[place % len(COLORS)],
        "marker": MARKERS[place % len(MARKERS)],
        "linestyle": LINES[place // len(COLORS) % len(LINES)],
    }


def add_legend(figure: Any, axes: Any, count: int) -> None:
    """Inside where it fits, else to the right; none for more series than anybody could look up."""
    if 1 < count <= MOST_IN_LEGEND // 2:
        axes.legend(frameon=False, fontsize=8)
    elif 1 < count <= MOST_LABELS:
        figure.legend(loc="outside right center", frameon=False, fontsize=8 if count <= MOST_IN_LEGEND else 6)


def save(figure: Any, path: Path) -> None:
    """Raises: ConfigError when the file cannot be written."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix.lower()[1:], dpi=150)
    write_file(path, buffer.getvalue())
