"""The status table for people, and waiting until every trial is final."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from runner.columns import Column, fitted_table
from runner.differences import read_settings
from runner.gpus import GpuMeter, describe, ranks_here
from runner.live import SETTING_WEIGHT, Sight, live_view, style_of
from runner.pace import Trail, measure, read_beat, read_trail
from runner.record import Record, describe_end, read_overrides
from runner.record_cache import RecordCache
from runner.rundir import RunDir, find_trials
from runner.status import Accounts, Ask, Row, ask_slurm, count_states, read_statuses
from runner.tables import (
    PIPED_WIDTH,
    format_age,
    format_value,
    make_console,
    short_names,
    varying_keys,
)

POLL_SECONDS = 1.0
POLL_SLURM_SECONDS = 5.0
"""Between two questions to Slurm, each of which is about all trials at once."""

REST_SECONDS = 60.0
"""Jobs of other sweeps make room, too."""


SendRest = Callable[[], tuple[list[RunDir], int] | None]
"""Submits trials for which there was no room: all that are there by then, and how many are left; None if in vain."""


class Watch:
    """Trials looked at again and again, and what is known of them from the last look."""

    def __init__(self, runs: list[RunDir], ask: Ask | None = None) -> None:
        self.runs, self.read = runs, RecordCache()
        self.ask = ask or partial(ask_slurm, accounts=Accounts())
        self._meter = GpuMeter()
        self._trails: dict[RunDir, tuple[Record, Trail]] = {}
        self._settings: list[dict[str, str]] | None = None

    def refresh(self) -> list[Row]:
        """The state of each trial now: two questions to Slurm at most, and what has changed on disk."""
        return read_statuses(self.runs, self.ask, self.read)

    def follow(self, runs: list[RunDir]) -> None:
        """Look at these from now on; what sets them apart is looked up again."""
        self.runs, self._settings = runs, None

    def view(self, rows: list[Row], console: Console) -> Group:
        """The live view of these rows, as large as the terminal."""
        now = time.time()
        name = " ".join(dict.fromkeys(row.experiment for row in rows))
        unicode = "utf" in (console.encoding or "").lower()
        return live_view(self.sights(rows, now), name, console.width, console.height, now, unicode)

    def sights(self, rows: list[Row], now: float) -> list[Sight]:
        """What the live view shows of each trial; how fast it is where it runs; `now` in unix seconds."""
        if self._settings is None:
            names, found = _differences(rows)
            self._settings = [{name: format_value(own.get(key, "")) for key, name in names.items()} for own in found]
        return [self._sight(row, own, now) for row, own in zip(rows, self._settings, strict=True)]

    def _sight(self, row: Row, settings: dict[str, str], now: float) -> Sight:
        if row.state != "running":
            return Sight(row, settings)
        record, trail = self._trails.get(row.run, (None, Trail()))
        if record is not row.record:
            trail = read_trail(row.run, row.record)
            self._trails[row.run] = row.record, trail
        pace = measure(trail, read_beat(row.run, row.record), row.record.steps, now)
        return Sight(row, settings, pace, trail.values, self._gpu_words(row))

    def _gpu_words(self, row: Row) -> str:
        last = row.record.attempts[-1] if row.record.attempts else {}
        if not self._meter.is_there or last.get("host") != os.uname().nodename:
            return ""
        return describe(self._meter.look_up(ranks_here(row.run, row.record)))


def status_table(rows: list[Row], width: int = PIPED_WIDTH) -> Table:
    """One line a trial: what was set, how far it is, what happened to it; on a narrow terminal what matters most."""
    names, settings = _differences(rows)
    several = len({row.experiment for row in rows}) > 1
    cells = [_progress_cells(row) for row in rows]
    columns = [
        *([Column("experiment", [Text(row.experiment) for row in rows], 50)] if several else []),
        Column("trial", [Text(row.trial) for row in rows], 100),
        *(
            Column(name, [Text(format_value(own.get(key, ""))) for own in settings], SETTING_WEIGHT - place)
            for place, (key, name) in enumerate(names.items())
        ),
        Column("state", [Text(row.state, style=style_of(row)) for row in rows], 99),
        *(
            Column(head, [Text(each[place]) for each in cells], weight, least)
            for place, (head, weight, least) in enumerate(_HISTORY)
        ),
    ]
    # Where nothing limits the width, no column is left out and long cells take several lines.
    return fitted_table(columns, width if width < PIPED_WIDTH else sys.maxsize, count_states(rows))


_HISTORY = (
    ("step", 90, None),
    ("attempts", 30, None),
    ("job", 10, None),
    ("updated", 20, None),
    ("metric", 80, 16),
    ("", 95, 20),
)
"""(head, weight, least width) of the cells of `_progress_cells`."""


def wait_until_final(
    runs: list[RunDir],
    ask: Ask | None = None,
    console: Console | None = None,
    every_seconds: float | None = None,
    send_rest: SendRest | None = None,
) -> int:
    """Show progress until nothing changes any more by itself; 0 when every trial is done, else 1.

    On a terminal the view is redrawn; elsewhere each change is one line. `send_rest` is called whenever a trial has
    ended, and from time to time.
    """
    console = console or make_console()
    watch = Watch(runs, ask)
    seen: dict[RunDir, tuple[int, str]] = {}
    live = Live(console=console, auto_refresh=False) if console.is_terminal else None
    settled, asked = 0, time.monotonic()
    with live if live is not None else contextlib.nullcontext():
        while True:
            began = time.monotonic()
            rows = watch.refresh()
            if live is not None:
                live.update(watch.view(rows, console), refresh=True)
            elif seen or not all(row.settled for row in rows):
                # What ended before anybody looked is no news.
                for line in changes(rows, seen):
                    console.print(Text(line), soft_wrap=True)
            before, settled = settled, sum(row.settled for row in rows)
            if send_rest and (settled > before or time.monotonic() - asked > REST_SECONDS):
                sent, asked = send_rest(), time.monotonic()
                if sent is not None:
                    watch.follow(sent[0])
                    send_rest = send_rest if sent[1] else None
                    continue
            if settled == len(rows) and not send_rest:
                break
            # Where a look takes long, the disk is not kept busy with it all the time.
            pause = max(_poll_seconds(rows), time.monotonic() - began)
            time.sleep(pause if every_seconds is None else every_seconds)
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


def _differences(rows: list[Row]) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """What sets trials of the whole experiments apart, shown or not, by short name; and the values of those shown.

    Overrides of any two trials count, and within an experiment whatever differs, whoever set it.
    """
    known = {row.run: row.record.overrides for row in rows}
    folders = dict.fromkeys(row.run.path.parent for row in rows)
    members = {folder: list(dict.fromkeys([*find_trials(folder), *_within(known, folder)])) for folder in folders}
    known |= {run: read_overrides(run) for runs in members.values() for run in runs if run not in known}
    keys = dict.fromkeys(varying_keys(list(known.values())))
    settings: dict[RunDir, dict[str, Any]] = {}
    there: dict[str, None] = {}
    for runs in members.values():
        found, configured = read_settings(runs, [known[run] for run in runs])
        keys |= dict.fromkeys(varying_keys(found))
        there |= dict.fromkeys(configured)
        settings |= zip(runs, found, strict=True)
    return dict(zip(keys, short_names(list(keys), there), strict=True)), [settings[row.run] for row in rows]


def _within(runs: Iterable[RunDir], folder: Path) -> list[RunDir]:
    return [run for run in runs if run.path.parent == folder]


def _progress_cells(row: Row) -> list[str]:
    record = row.record
    preempted = f" ({row.preemptions} preempted)" if row.preemptions else ""
    return [
        "" if record.step is None else f"{record.step}/{record.steps or '?'}",
        f"{row.attempts}{preempted}" if row.attempts else "",
        row.job_id or "",
        "" if record.updated is None else format_age(time.time() - record.updated),
        " ".join(f"{name} {format_value(value)}" for name, value in (row.metric or {}).items()),
        row.note,
    ]


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
