"""What a mirror of metrics.jsonl is: a place that takes its rows, in order, and is told at the end how things stand.

A member of runner/mirrors has `Config`, its options, and `open_sink(run, trial, config) -> Sink`; where something must
be installed for it, `check()` raises OptionError on the machine that submits.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from runner.files import read_json, read_rows
from runner.rundir import RunDir

End = Literal["done", "failed", "cancelled", "interrupted"]
"""How a trial stands; interrupted: it will go on, or goes on."""


@dataclass(frozen=True)
class MetricRow:
    """One row of metrics.jsonl."""

    step: int
    time: float
    """Unix seconds."""

    metrics: dict[str, float]


class Sink(Protocol):
    """One mirror, open."""

    next_step: int
    """Rows of earlier steps are there already, from an attempt before."""

    def write(self, row: MetricRow) -> None:
        """Take a row; steps increase."""

    def close(self, end: End) -> None:
        """Write what is not written yet, and how the trial stands."""


def parse_row(row: dict[str, Any]) -> MetricRow | None:
    """The row of metrics.jsonl that a JSON document is, None when it is none."""
    row = dict(row)
    step, time = row.pop("step", None), row.pop("time", None)
    row.pop("attempt", None)
    if not isinstance(step, int) or not isinstance(time, int | float):
        return None
    return MetricRow(step, time, row)


def read_metrics(path: Path) -> list[MetricRow]:
    """The rows of a metrics.jsonl, each step once, steps increasing."""
    rows: list[MetricRow] = []
    for row in map(parse_row, read_rows(path)):
        if row is not None and (not rows or row.step > rows[-1].step):
            rows.append(row)
    return rows


def how_it_stands(run: RunDir, attempt: int | None = None) -> End:
    """What the run folder says of its trial; with `attempt`, an attempt whose rank 0 crashed has failed, too."""
    if run.result.exists():
        return "done"
    if run.cancelled.exists():
        return "cancelled"
    crashed = attempt is not None and run.crash(attempt, 0).exists()
    return "failed" if crashed or run.failure.exists() else "interrupted"


def digest_of(run: RunDir, rows: list[MetricRow], end: End) -> str:
    """Equal for what a mirror would show alike; when a row was written is left out."""
    content = [[[row.step, row.metrics] for row in rows], end, read_json(run.result) if end == "done" else None]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
