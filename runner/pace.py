"""How fast trials get on, and when they and their sweep are expected to end: pure functions of what files say."""

import heapq
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runner.files import read_json
from runner.record import Record, last_rows, main_metric, read_tail
from runner.rundir import RunDir

ROWS = 20
"""Of metrics.jsonl that count for the rate, and evaluations that are drawn."""


@dataclass(frozen=True)
class Trail:
    """Where a trial came by lately."""

    points: tuple[tuple[int, float], ...] = ()
    """(step, unix seconds) of the present attempt, oldest first."""

    values: tuple[float, ...] = ()
    """The last values of the main metric."""


@dataclass(frozen=True)
class Pace:
    """How a running trial gets on."""

    step: int | None = None
    rate: float | None = None
    """Steps a second."""

    left_seconds: float | None = None


NO_PACE = Pace()


def read_trail(run: RunDir, record: Record) -> Trail:
    """What the end of metrics.jsonl tells, and the start of the attempt."""
    try:
        tail = read_tail(run)
    except OSError:
        tail = b""
    start: dict[str, Any] = next((row for row in reversed(record.attempts) if row["event"] == "start"), {})
    rows = [row for row in last_rows(tail, "step", ROWS) if row.get("attempt") == start.get("attempt")]
    points = [(row["step"], row["time"]) for row in rows if "time" in row]
    if len(points) < 2 and start:
        points.insert(0, (start["start_step"], start["time"]))
    name = main_metric(record.metrics) or ""
    values = [row.get(name) for row in last_rows(tail, f'{name}"', ROWS)] if name else []
    return Trail(tuple(points), tuple(value for value in values if isinstance(value, int | float)))


def read_beat(run: RunDir, record: Record) -> tuple[int, float] | None:
    """(step, unix seconds) of the last progress of rank 0, which may be newer than any row; None without one."""
    if not record.has_open_attempt:
        return None
    try:
        beat = read_json(run.beat(record.attempts[-1]["attempt"], 0))
        return None if beat is None else (int(beat["step"]), float(beat["since"]))
    except (OSError, ValueError, KeyError):
        return None


def measure(trail: Trail, beat: tuple[int, float] | None, steps: int | None, now: float) -> Pace:
    """Step, rate and time left of a running trial; the rate of one that does not get on falls."""
    points = [*trail.points, *([beat] if beat is not None and trail.points and beat > trail.points[-1] else [])]
    if not points:
        return Pace()
    (first, began), (step, at) = points[0], points[-1]
    # No word for longer than all of them span: it stands still.
    elapsed = max(at - began, now - at)
    rate = (step - first) / elapsed if elapsed > 0 else 0.0
    if rate <= 0:
        return Pace(step)
    left = None if steps is None else max((steps - step) / rate - (now - at), 0.0)
    return Pace(step, rate, left)


Steps = int | None
"""None: not known yet."""


def expect_end(running: Sequence[tuple[Pace, Steps]], waiting: Sequence[tuple[Steps, Steps]]) -> float | None:
    """Seconds until a sweep has ended, if as many trials go on running at a time as do now; None while unknown.

    `running` are the paces of trials that run with their steps, `waiting` is (step, steps) of each that is to run;
    those of which nothing is known are taken for typical ones.
    """
    rates = [pace.rate for pace, _ in running if pace.rate]
    lengths = [steps for steps in (*(steps for _, steps in running), *(steps for _, steps in waiting)) if steps]
    if not rates or not lengths:
        return None
    rate, length = statistics.median(rates), statistics.median(lengths)

    def left(step: Steps, steps: Steps) -> float:
        return float(max((steps or length) - (step or 0), 0) / rate)

    free = [left(pace.step, steps) if pace.left_seconds is None else pace.left_seconds for pace, steps in running]
    heapq.heapify(free)
    for step, steps in waiting:
        # The next one starts where a running one ends first.
        heapq.heapreplace(free, free[0] + left(step, steps))
    return max(free)
