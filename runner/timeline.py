"""The timeline of a sweep as a picture: a bar for each trial, coloured by what its time went into."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runner.errors import ConfigError
from runner.goodput import Account
from runner.ledger import EVALUATION, IDLE, KINDS, QUEUE, REDONE, RESTORING, SAVING, START_UP, USEFUL, Span, lay_out
from runner.plot.figure import FORMATS, MOST_LABELS, new_figure, save

COLOURS = {
    USEFUL: "#009e73",
    EVALUATION: "#f0e442",
    SAVING: "#56b4e9",
    RESTORING: "#0072b2",
    START_UP: "#cc79a7",
    REDONE: "#d55e00",
    IDLE: "#4d4d4d",
    QUEUE: "#dddddd",
}
"""Okabe and Ito's, which those see apart who do not see red or green; and greys for time in which nothing happens."""

MARKS = {True: ("v", "preempted, saved"), False: ("X", "killed or failed, not saved")}
ROW_INCHES, MOST_INCHES = 0.28, 12.0


def draw_timeline(path: Path, title: str, accounts: Sequence[Account]) -> None:
    """Draw what the time of each trial went into, with its interruptions, by the time since the first submission.

    Raises: ConfigError for a suffix that names no picture format, and when nothing has happened yet.
    """
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"{path}: the suffix must be one of {', '.join(FORMATS)}")
    save(make_timeline(title, accounts), path)


def make_timeline(title: str, accounts: Sequence[Account]) -> Any:
    """The same as a figure. Raises: ConfigError when nothing has happened yet."""
    bars = [lay_out(account.history) for account in accounts]
    if not any(bars):
        raise ConfigError(f"no trial of {title} has been submitted yet")
    first = min(span.begin for spans in bars for span in spans)
    unit, length = _unit(max(span.end for spans in bars for span in spans) - first)
    beside = "; beside it the effective training time ratio" if len(bars) <= MOST_LABELS else ""
    figure, axes = new_figure(f"{title}: where the time of each trial went{beside}")
    figure.set_size_inches(9, min(1.7 + ROW_INCHES * len(bars), MOST_INCHES))
    axes.grid(visible=False)
    for place, spans in enumerate(bars):
        _draw_bar(axes, place, spans, first, length)
    _draw_marks(axes, accounts, first, length)
    axes.set_ylim(len(bars) - 0.4, -0.8)
    axes.set_xlim(left=0)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    if len(bars) <= MOST_LABELS:
        axes.set_yticks(range(len(bars)), [_label(account) for account in accounts], fontsize=8)
    else:
        axes.set_ylabel("trial, in the order of the table")
    axes.set_xlabel(f"{unit} since the first submission")
    _draw_legend(figure, {span.kind for spans in bars for span in spans}, accounts)
    return figure


def _draw_bar(axes: Any, place: int, spans: Sequence[Span], first: float, length: float) -> None:
    for kind, colour in COLOURS.items():
        own = [((span.begin - first) / length, span.seconds / length) for span in spans if span.kind == kind]
        thin = 0.3 if kind == QUEUE else 0.7
        axes.broken_barh(own, (place - thin / 2, thin), color=colour, linewidth=0)


def _draw_marks(axes: Any, accounts: Sequence[Account], first: float, length: float) -> None:
    size = 5 if len(accounts) <= MOST_LABELS else 2
    for saved, (marker, _) in MARKS.items():
        points = [
            ((each.time - first) / length, place - 0.48)
            for place, account in enumerate(accounts)
            for each in account.ledger.interruptions
            if each.saved is saved
        ]
        if points:
            xs, ys = zip(*points, strict=True)
            axes.plot(xs, ys, linestyle="", marker=marker, markersize=size, color="black", markeredgewidth=0, zorder=3)


def _draw_legend(figure: Any, kinds: set[str], accounts: Sequence[Account]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [
        Patch(color=COLOURS[kind], label=kind.replace("_", "-"), linewidth=0) for kind in KINDS if kind in kinds
    ]
    ends = {each.saved for account in accounts for each in account.ledger.interruptions}
    handles += [
        Line2D([], [], linestyle="", marker=marker, color="black", markeredgewidth=0, label=words)
        for saved, (marker, words) in MARKS.items()
        if saved in ends
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False, fontsize=8)


def _label(account: Account) -> str:
    ratio = account.ledger.ratio()
    return account.row.trial if ratio is None else f"{account.row.trial}  {ratio:.2f}"


def _unit(seconds: float) -> tuple[str, float]:
    return next(
        ((unit, size) for unit, size in (("hours", 3600), ("minutes", 60)) if seconds > 3 * size), ("seconds", 1)
    )
