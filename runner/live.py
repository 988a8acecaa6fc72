"""The live view of `runner status --watch`: what runs and what failed, within the height and width of a terminal."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.cells import cell_len
from rich.console import Group
from rich.table import Table
from rich.text import Text

from runner.columns import GAP, Column, fit
from runner.pace import NO_PACE, Pace, expect_end
from runner.status import STATES, Row, count_states
from runner.tables import draw_bar, draw_trend, format_clock, format_duration, format_value

NOTE_WIDTH = 16
"""Columns that a note gets at least, where there is one."""

BAR_WIDTH, TREND_WIDTH = 10, 12
STATE_WIDTH = max(map(len, STATES))
RATE_WIDTH, CLOCK_WIDTH = len("0.01234"), len("2026-12-31")
ATTEMPTS_WIDTH, METRIC_WIDTH = len("9 (9 preempted)"), len("test/linear_top1 0.1234")
"""What these columns come to need, which is kept free so that none goes when another has something to show."""

LINES_AROUND = 6
"""Three above the table, its head, the counts of the rest, and the one that the cursor is on."""

SETTING_WEIGHT = 89
"""Of the first setting's column: without it nobody knows which trial it is. The others follow, one less each."""

_WAITING = ("requeued", "pending")
_STYLES = {
    "pending": "dim",
    "running": "cyan",
    "requeued": "yellow",
    "done": "green",
    "failed": "red",
    "cancelled": "magenta",
    "unknown": "bold red",
}


@dataclass(frozen=True)
class Sight:
    """One trial as the live view shows it."""

    row: Row
    settings: dict[str, str]
    """What sets it apart, by short name."""

    pace: Pace = NO_PACE
    trend: tuple[float, ...] = ()
    gpu: str = ""

    @property
    def step(self) -> int | None:
        return max((step for step in (self.row.record.step, self.pace.step) if step is not None), default=None)

    @property
    def fraction(self) -> float:
        """How much of its steps is done."""
        if self.row.state == "done":
            return 1.0
        return min((self.step or 0) / self.row.record.steps, 1.0) if self.row.record.steps else 0.0

    @property
    def needs_attention(self) -> bool:
        return self.row.state in ("failed", "unknown") or self.row.blocked


def style_of(row: Row) -> str:
    """The colour of a trial's state; what can never start is as red as what failed."""
    return "bold red" if row.blocked else _STYLES[row.state]


def live_view(sights: Sequence[Sight], name: str, width: int, height: int, now: float, unicode: bool = True) -> Group:
    """The whole view: a line about the sweep, the trials that matter, the counts of the rest; `now` in unix seconds."""
    shown = choose(sights, max(height - LINES_AROUND, 1))
    table = Table(box=None, header_style="bold", padding=(0, GAP, 0, 0), pad_edge=False)
    columns = _choose_columns(make_columns(shown, sights, now, unicode), width)
    for column, room in columns:
        table.add_column(column.head, width=room, no_wrap=True, overflow="ellipsis")
    for cells in zip(*(column.cells for column, _ in columns), strict=True):
        table.add_row(*cells)
    rest = Counter(sight.row.state for sight in sights) - Counter(sight.row.state for sight in shown)
    words = ", ".join(f"{rest[state]} {state}" for state in STATES if rest[state])
    footer = [_line(f"and {words}", "dim")] if words else []
    return Group(*_summary(sights, name, now, unicode), table, *footer)


def choose(sights: Sequence[Sight], space: int) -> list[Sight]:
    """The trials there is room for: all as they come, else what failed or runs first, half of the room for each."""
    if len(sights) <= space:
        return list(sights)
    blocked = [s for s in sights if s.row.blocked]
    failed = [s for s in sights if s.needs_attention and not s.row.blocked]
    failed.sort(key=lambda s: -(s.row.record.updated or 0.0))
    # What blocks one mostly blocks many; failures differ.
    bad = [*blocked[:2], *failed, *blocked[2:]]
    running = sorted((s for s in sights if s.row.state == "running"), key=lambda s: -s.fraction)
    waiting = [s for s in sights if s.row.state in _WAITING and not s.row.blocked]
    rest = [s for s in sights if s.row.state in ("cancelled", "done")]
    kept_bad = bad[: max(space - len(running), space // 2)]
    return [*kept_bad, *running, *waiting, *rest][:space]


def _choose_columns(columns: Sequence[Column], width: int) -> list[tuple[Column, int]]:
    """Those that have something to show, of those there is room for: whatever happens, none takes another's place."""
    kept = [column for column, _ in fit(columns, width)]
    return fit([replace(each, reserve=0) for each in kept if any(cell.plain for cell in each.cells)], width)


def make_columns(sights: Sequence[Sight], everyone: Sequence[Sight], now: float, unicode: bool) -> list[Column]:
    """Every column, of the trials that are shown; `everyone` is all that may be."""
    several = len({sight.row.experiment for sight in everyone}) > 1
    names = list(dict.fromkeys(name for sight in everyone for name in sight.settings))
    steps = max((sight.row.record.steps or 0 for sight in everyone), default=0)
    return [
        *([_column("experiment", 4, sights, lambda s: s.row.experiment)] if several else []),
        _column("trial", 100, sights, lambda s: s.row.trial),
        *(
            _column(name, SETTING_WEIGHT - place, sights, _setting(name), _widest(name, everyone))
            for place, name in enumerate(names)
        ),
        Column("state", [Text(s.row.state, style=style_of(s.row)) for s in sights], 99, reserve=STATE_WIDTH),
        Column("", [_bar(s, unicode) for s in sights], 20, reserve=BAR_WIDTH),
        _column("step", 90, sights, _progress, len(f"{steps}/{steps}")),
        _column("steps/s", 60, sights, lambda s: "" if s.pace.rate is None else format_value(s.pace.rate), RATE_WIDTH),
        _column("ends", 70, sights, lambda s: _end(s.pace.left_seconds, now), CLOCK_WIDTH),
        _column("attempts", 40, sights, _attempts, ATTEMPTS_WIDTH),
        _column("GPU", 5, sights, lambda s: s.gpu),
        _metric_column(sights),
        _column("trend", 10, sights, lambda s: draw_trend(s.trend, TREND_WIDTH) if unicode else "", TREND_WIDTH),
        Column("", [_note(s) for s in sights], 80, NOTE_WIDTH, NOTE_WIDTH),
    ]


def _column(head: str, weight: int, sights: Sequence[Sight], show: Any, reserve: int = 0) -> Column:
    return Column(head, [Text(show(sight)) for sight in sights], weight, reserve=reserve)


def _note(sight: Sight) -> Text:
    return Text(sight.row.note, style="red" if sight.needs_attention else "dim")


def _widest(name: str, sights: Sequence[Sight]) -> int:
    return max(cell_len(sight.settings.get(name, "")) for sight in sights)


def _setting(name: str) -> Any:
    return lambda sight: sight.settings.get(name, "")


def _progress(sight: Sight) -> str:
    return "" if sight.step is None else f"{sight.step}/{sight.row.record.steps or '?'}"


def _bar(sight: Sight, unicode: bool) -> Text:
    bar = draw_bar(sight.fraction, BAR_WIDTH, unicode) if sight.step is not None else ""
    return Text(bar, style=style_of(sight.row))


def _metric_column(sights: Sequence[Sight]) -> Column:
    """The main metrics; where all have the same one, its name is the head."""
    found = [next(iter((sight.row.metric or {}).items()), None) for sight in sights]
    names = {entry[0] for entry in found if entry is not None}
    head = names.pop() if len(names) == 1 else "metric"
    words = [
        "" if entry is None else f"{entry[0]} {format_value(entry[1])}".removeprefix(f"{head} ") for entry in found
    ]
    return Column(head, [Text(each) for each in words], 65, reserve=METRIC_WIDTH)


def _attempts(sight: Sight) -> str:
    preempted = f" ({sight.row.preemptions} preempted)" if sight.row.preemptions else ""
    return f"{sight.row.attempts}{preempted}" if sight.row.attempts > 1 or preempted else ""


def _end(left_seconds: float | None, now: float) -> str:
    return "" if left_seconds is None else format_clock(now + left_seconds, now)


def _summary(sights: Sequence[Sight], name: str, now: float, unicode: bool) -> list[Text]:
    """How far the sweep is: by steps, in trials, how fast, and when it will have ended."""
    rows = [sight.row for sight in sights]
    running = [sight for sight in sights if sight.row.state == "running"]
    waiting = [sight for sight in sights if sight.row.state in _WAITING and not sight.row.blocked]
    done = sum(row.state == "done" for row in rows)
    part = sum(sight.fraction for sight in sights) / max(len(sights), 1)
    left = expect_end(
        [(sight.pace, sight.row.record.steps) for sight in running],
        [(sight.step, sight.row.record.steps) for sight in waiting],
    )
    pace = [time.strftime("%H:%M:%S", time.localtime(now))]
    if rate := sum(sight.pace.rate or 0.0 for sight in running):
        pace.append(f"{format_value(rate)} steps/s")
    if left is not None:
        pace.append(f"ends about {format_clock(now + left, now)}, in {format_duration(left)}")
    line = _line("")
    line.append(f"{name} ", style="bold")
    line.append(f"{draw_bar(part, 2 * BAR_WIDTH, unicode)} {100 * part:.0f} %  ", style="cyan")
    line.append(f"{done} of {len(rows)} done")
    return [line, _line("  ".join(pace)), _line(count_states(rows))]


def _line(words: str, style: str = "") -> Text:
    return Text(words, style=style, no_wrap=True, overflow="ellipsis")
