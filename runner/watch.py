"""The status table for people, and waiting until every trial is final."""

import contextlib
import time
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from runner.differences import read_settings
from runner.record import describe_end
from runner.rundir import RunDir
from runner.status import Ask, Row, count_states, read_statuses
from runner.tables import (
    PIPED_WIDTH,
    format_age,
    format_value,
    make_console,
    new_table,
    short_names,
    varying_keys,
)

POLL_SECONDS = 1.0
POLL_SLURM_SECONDS = 5.0
"""Between two questions to Slurm, each of which is about all trials at once."""

NARROW = 110
"""Columns of a terminal that cannot show everything; what `runner show` tells too is left out."""

_STYLES = {
    "pending": "dim",
    "running": "cyan",
    "requeued": "yellow",
    "done": "green",
    "failed": "red",
    "cancelled": "magenta",
    "unknown": "bold red",
}


def status_table(rows: list[Row], width: int = PIPED_WIDTH) -> Table:
    """One line a trial: what was set, how far it is, what happened to it."""
    narrow = width < NARROW
    keys, settings = _differences(rows)
    several = len({row.experiment for row in rows}) > 1
    heads = ["experiment"] * several + ["trial", *short_names(keys), "state", "step"]
    heads += ["metric", ""] if narrow else ["attempts", "job", "updated", "metric", ""]
    table = new_table(heads, count_states(rows))
    for row, own in zip(rows, settings, strict=True):
        values = [format_value(own.get(key, "")) for key in keys]
        table.add_row(
            *map(Text, [row.experiment] * several + [row.trial, *values]),
            Text(row.state, style=_style(row)),
            *map(Text, _progress_cells(row, narrow)),
        )
    return table


def _style(row: Row) -> str:
    return "bold red" if row.blocked else _STYLES[row.state]


def wait_until_final(
    runs: list[RunDir],
    ask: Ask | None = None,
    console: Console | None = None,
    every_seconds: float | None = None,
) -> int:
    """Show progress until nothing changes any more by itself; 0 when every trial is done, else 1.

    On a terminal the table is redrawn; elsewhere each change is one line.
    """
    console = console or make_console()
    seen: dict[RunDir, tuple[int, str]] = {}
    live = Live(console=console, auto_refresh=False) if console.is_terminal else None
    with live if live is not None else contextlib.nullcontext():
        while True:
            rows = read_statuses(runs, ask)
            if live is not None:
                live.update(status_table(rows, console.width), refresh=True)
            else:
                for line in changes(rows, seen):
                    console.print(Text(line), soft_wrap=True)
            if all(row.settled for row in rows):
                break
            time.sleep(_poll_seconds(rows) if every_seconds is None else every_seconds)
    if live is None:
        console.print(count_states(rows))
    return 0 if all(row.state == "done" for row in rows) else 1


def changes(rows: list[Row], seen: dict[RunDir, tuple[int, str]]) -> list[str]:
    """A line for each thing that happened since the last call, in order of time; brings `seen` up to date.

    At the first call that is what happened since the trial was submitted last.
    """
    news: list[tuple[float, str, str]] = []
    for row in rows:
        record = row.record
        submitted = record.job["time"] if record.job else 0.0
        before = sum(entry["time"] < submitted for entry in record.attempts)
        state = row.state if row.settled and (record.updated or 0.0) < submitted else ""
        count, state = seen.get(row.run, (before, state))
        told = [entry for entry in record.attempts[count:] if entry.get("cause") != "done"]
        news += [(entry["time"], row.trial, _attempt_words(entry)) for entry in told]
        if row.state != state and (words := _state_words(row)):
            at = record.updated if row.settled else None
            news.append((at or time.time(), row.trial, words))
        seen[row.run] = (len(record.attempts), row.state)
    return [f"{time.strftime('%H:%M:%S', time.localtime(at))} {trial} {words}" for at, trial, words in sorted(news)]


def _differences(rows: list[Row]) -> tuple[list[str], list[dict[str, Any]]]:
    """What sets trials of one experiment apart, whoever set it, or overrides of any two; and each trial's values."""
    settings: list[dict[str, Any]] = [{} for _ in rows]
    keys = dict.fromkeys(varying_keys([row.record.overrides for row in rows]))
    places: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        places.setdefault(row.experiment, []).append(place)
    for members in places.values():
        found = read_settings([rows[i].run for i in members], [rows[i].record.overrides for i in members])
        keys |= dict.fromkeys(varying_keys(found))
        for place, own in zip(members, found, strict=True):
            settings[place] = own
    return list(keys), settings


def _progress_cells(row: Row, narrow: bool) -> list[str]:
    record = row.record
    preempted = f" ({row.preemptions} preempted)" if row.preemptions else ""
    step = "" if record.step is None else f"{record.step}/{record.steps or '?'}"
    metric = " ".join(f"{name} {format_value(value)}" for name, value in (row.metric or {}).items())
    history = [
        f"{row.attempts}{preempted}" if row.attempts else "",
        row.job_id or "",
        "" if record.updated is None else format_age(time.time() - record.updated),
    ]
    return [step, *([] if narrow else history), metric, row.note]


def _poll_seconds(rows: Iterable[Row]) -> float:
    asks_slurm = any(not row.settled and row.record.job and row.record.job["cluster"] != "local" for row in rows)
    return POLL_SLURM_SECONDS if asks_slurm else POLL_SECONDS


def _attempt_words(entry: dict[str, Any]) -> str:
    if entry["event"] == "end":
        return describe_end(entry)
    return f"running on {entry.get('host')}, attempt {entry['attempt']} from step {entry.get('start_step')}"


def _state_words(row: Row) -> str:
    """What is worth a line of its own; the states before the end are told by the attempts' rows."""
    if row.state == "done":
        metric = "".join(f", {name} {format_value(value)}" for name, value in (row.metric or {}).items())
        return f"done at step {row.record.step}{metric}"
    if row.state in ("failed", "cancelled", "unknown"):
        return f"{row.state}: {row.note}" if row.note else row.state
    return ""
