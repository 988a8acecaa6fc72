"""What the run folders tell of where the time of trials went, and how that looks in a table."""

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.table import Table
from rich.text import Text

from runner import lineage
from runner.columns import Column, fitted_table
from runner.evidence import read_crashes
from runner.files import read_json, read_rows
from runner.ledger import (
    IDLE,
    KINDS,
    RESTORING,
    TRAINING,
    History,
    Interruption,
    Launch,
    Ledger,
    Reading,
    keep_account,
)
from runner.rundir import RunDir, is_closed
from runner.status import Row
from runner.tables import PIPED_WIDTH

FRESH_SECONDS = 15.0
"""A launch whose last word is no older is still at what it was at."""

LEDGER_HEADS = ("wall", *(kind.replace("_", "-") for kind in KINDS), "ETTR", "with queue", "interrupted")
COST_HEADS = ("cause", "times", "saved", "each cost", "redone", "steps", "idle", "queue", "restart")

_LEDGER_WEIGHTS = (90, 95, 80, 50, 40, 45, 42, 70, 65, 99, 85, 88)
_COST_WEIGHTS = (100, 99, 70, 95, 90, 50, 60, 65, 80)
"""Which columns stay where there is no room for all: those of most weight."""


@dataclass(frozen=True)
class Account:
    """A trial's history and ledger."""

    row: Row
    history: History
    ledger: Ledger

    def as_json(self) -> dict[str, Any]:
        return {"trial": self.row.trial, "state": self.row.state, **ledger_as_json(self.ledger)}


def read_accounts(rows: Sequence[Row], now: float, per_rank: bool = False) -> list[Account]:
    """The account of each trial up to `now`, in unix seconds."""
    histories = [read_history(row, now) for row in rows]
    return [
        Account(row, history, keep_account(history, per_rank)) for row, history in zip(rows, histories, strict=True)
    ]


def read_history(row: Row, now: float) -> History:
    """What a run folder tells of when its trial did what."""
    run = row.run
    if is_closed(run):
        return History((), (), now)
    launches = _launches(run, row.record.attempts)
    last = launches[-1] if launches else Launch()
    if row.state == "running" and last.end is None and last.readings:
        word = last.readings[-1]
        if now - word.time < FRESH_SECONDS:
            launches[-1] = replace(last, readings=(*last.readings, word.later(now, word.step)))
    submissions = tuple(sorted(job["time"] for job in run.job_rows()))
    if row.state in ("pending", "requeued", "running"):
        # A job may run already, or still, that has no launch of the trial in it.
        waits = bool(submissions) and (not launches or last.end is not None)
        return History(submissions, tuple(launches), now, is_waiting=waits)
    words = [launch.end or launch.readings[-1].time for launch in launches if launch.end or launch.readings]
    over = max([*submissions, *words], default=now)
    if (given_up := _time_of(run.cancelled)) is not None and given_up > over:
        return History(submissions, tuple(launches), given_up, is_waiting=not launches or last.requeued)
    return History(submissions, tuple(launches), over)


Event = dict[str, Any]


def _pair(run: RunDir, rows: Sequence[Event]) -> Iterator[tuple[int | None, Event | None, Event | None]]:
    """(attempt, start row, end row) of each launch; either row may be missing."""
    found: list[list[Any]] = []
    for row in rows:
        is_known = bool(found) and found[-1][0] == row["attempt"] and found[-1][2] is None
        if row["event"] == "start":
            found.append([row["attempt"], row, None])
        elif is_known:
            found[-1][2] = row
        else:
            told = any(number == row["attempt"] for number, *_ in found)
            found.append([None if told else row["attempt"], None, row])
    known = {number for number, *_ in found}
    for path in sorted((run.path / "tokens").glob("[0-9]*")):
        # Killed before it had restored anything, and nobody was there to see it.
        if (number := int(path.name)) not in known and run.beat(number, 0).exists():
            place = next((i for i, (other, *_) in enumerate(found) if (other or 0) > number), len(found))
            found.insert(place, [number, None, None])
    return ((number, start, end) for number, start, end in found)


@dataclass(frozen=True)
class _Traces:
    """What is left of attempts in the files of the whole trial, by attempt."""

    logged: Mapping[int, Event]
    """The last row of metrics that was not taken back."""

    saved: Mapping[int, int]
    """The furthest step from which another attempt went on."""


def _launches(run: RunDir, rows: Sequence[Event]) -> list[Launch]:
    paired = list(_pair(run, rows))
    # Whoever told its end needs no traces; then a file of any length is not read.
    told = all(_is_told(end) for _, _, end in paired)
    traces = _Traces({}, {}) if told else _Traces(_last_logged(run), _resumed_steps(rows))
    return [_launch(run, traces, *each) for each in paired]


def _is_told(end: Event | None) -> bool:
    """Whether an attempt lived to write its end itself."""
    return end is not None and "launch" not in end


def _last_logged(run: RunDir) -> dict[int, Event]:
    rows = read_rows(run.metrics)
    return {row["attempt"]: row for row in rows if isinstance(row.get("attempt"), int) and {"time", "step"} <= {*row}}


def _resumed_steps(rows: Sequence[Event]) -> dict[int, int]:
    steps: dict[int, int] = {}
    for row in rows:
        if row["event"] == "start" and lineage.NAME.fullmatch(str(row.get("resumed_from"))):
            step, attempt = lineage.order_of(row["resumed_from"])
            steps[attempt] = max(step, steps.get(attempt, 0))
    return steps


def _launch(run: RunDir, traces: _Traces, number: int | None, start: Event | None, end: Event | None) -> Launch:
    readings = _readings(run, traces, number, start, end) if number else ()
    return Launch(
        attempt=number,
        readings=readings,
        start_step=start["start_step"] if start else None,
        end=end["time"] if end else None,
        cause=end.get("cause") if end else None,
        requeued=bool(end and end.get("requeue")),
        saved=bool(end and end.get("signal_to_saved_seconds") is not None),
        ranks=start["world_size"] if start else 1,
    )


def _readings(run: RunDir, traces: _Traces, number: int, start: Event | None, end: Event | None) -> tuple[Reading, ...]:
    """The clock of an attempt up to its last word: a heartbeat, a row of metrics, what a rank said as it crashed."""
    noted = read_rows(run.readings(number))
    beat = _document(run.beat(number, 0))
    if start is not None:
        # Older folders have no clock; then nothing is known of what was before.
        noted.insert(0, {"step": start["start_step"], "kind": RESTORING, "seconds": {}, **start})
    own = _is_told(end)
    if own and end is not None:
        noted.append({"step": end.get("end_step") or 0, "kind": IDLE, **end})
    clock: list[Reading] = []
    sightings = [(row["time"], row["step"]) for row in noted if "seconds" not in row and row.get("time")]
    full = [row for row in [*noted, beat] if row.get("seconds") is not None and row.get("time") is not None]
    for row in sorted(full, key=lambda row: float(row["time"])):
        if not clock or sum(row["seconds"].values()) >= sum(clock[-1].seconds.values()):
            clock.append(Reading(row["time"], row["step"], row["seconds"], row.get("kind", IDLE)))
    if not own:
        sightings += [(crash["time"], crash.get("step") or 0) for crash in read_crashes(run, number)]
        if last := traces.logged.get(number):
            sightings.append((last["time"], last["step"]))
    for moment, step in sorted(sightings):
        if clock and moment > clock[-1].time:
            clock.append(clock[-1].later(moment, step))
    if clock and not own and (saved := traces.saved.get(number, 0)) > clock[-1].step:
        clock.append(_at_step(clock, saved))
    return tuple(clock)


def _at_step(clock: Sequence[Reading], step: int) -> Reading:
    """The clock at a step that was saved after the last word: a kill may come between. At the pace until then."""
    word = clock[-1]
    trained = word.step - clock[0].step
    pace = word.seconds.get(TRAINING, 0.0) / trained if trained > 0 else 0.0
    return word.later(word.time + pace * (step - word.step), step)


def _document(path: Any) -> Event:
    try:
        return read_json(path) or {}
    except (OSError, ValueError):
        return {}


def _time_of(path: Any) -> float | None:
    found = _document(path).get("time")
    return float(found) if isinstance(found, int | float) else None


def ledger_as_json(ledger: Ledger) -> dict[str, Any]:
    return {
        "seconds": dict(ledger.seconds),
        "wall_seconds": ledger.wall_seconds,
        "ratio": ledger.ratio(),
        "ratio_with_queue": ledger.ratio(with_queue=True),
        "useful_steps": ledger.useful_steps,
        "redone_steps": ledger.redone_steps,
        "saves": ledger.saves,
        "interruptions": [asdict(each) | {"seconds": each.seconds} for each in ledger.interruptions],
    }


def goodput_table(accounts: Sequence[Account], total: Ledger, width: int = PIPED_WIDTH) -> Table:
    """One line a trial, and their sum; of the columns those that so narrow a terminal has room for."""
    lines = [[each.row.trial, each.row.state, *ledger_cells(each.ledger)] for each in accounts]
    if len(accounts) > 1:
        lines.append(["all", "", *ledger_cells(total)])
    return _table(["trial", "state", *LEDGER_HEADS], lines, [100, 60, *_LEDGER_WEIGHTS], width)


def ledger_cells(ledger: Ledger) -> list[str]:
    """What stands below LEDGER_HEADS."""
    ratios = [ledger.ratio(), ledger.ratio(with_queue=True)]
    return [
        format_seconds(ledger.wall_seconds),
        *(format_seconds(ledger.seconds[kind]) for kind in KINDS),
        *("" if ratio is None else f"{ratio:.3f}" for ratio in ratios),
        str(len(ledger.interruptions)),
    ]


def costs_table(interruptions: Sequence[Interruption], width: int = PIPED_WIDTH) -> Table:
    """What interruptions cost on average, by their cause."""
    return _table(COST_HEADS, list(cost_rows(interruptions)), _COST_WEIGHTS, width)


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]], weights: Sequence[int], width: int) -> Table:
    cells = [[Text(line[place]) for line in lines] for place in range(len(heads))]
    return fitted_table(list(map(Column, heads, cells, weights)), width)


def cost_rows(interruptions: Sequence[Interruption]) -> Iterator[list[str]]:
    """What stands below COST_HEADS, a line for each cause."""
    for cause in sorted({each.cause for each in interruptions}):
        some = [each for each in interruptions if each.cause == cause]
        steps = statistics.fmean(each.redone_steps for each in some)
        yield [
            cause,
            str(len(some)),
            str(sum(each.saved for each in some)),
            _mean(each.seconds for each in some),
            _mean(each.redone_seconds for each in some),
            f"{steps:.1f}",
            _mean(each.idle_seconds for each in some),
            _mean([each.queue_seconds for each in some if each.is_followed] or [0.0]),
            _mean([each.restart_seconds for each in some if each.is_followed] or [0.0]),
        ]


def _mean(seconds: Iterable[float]) -> str:
    return format_seconds(statistics.fmean(seconds))


def format_seconds(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3.2 min`, `5.1 h`, `12 d`."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 3 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
