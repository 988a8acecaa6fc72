"""What a rehearsal does to a trial, and what came of it: plan, rows and verdict are values."""

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from runner.tables import new_table

KINDS = {
    "preempt": "preempted by a job of higher priority, user signal",
    "term": "preempted by a job of higher priority, TERM alone",
    "requeue": "scontrol requeue",
    "kill": "kill -9 of a rank",
    "node": "death of a node",
}
"""What may happen to a trial."""

STEPS_PER_EVENT = 4
"""Fewer leave no room for a random step, and for some before and after it."""

ROOM = 0.6
"""Part of its share of the steps in which an event may come; the rest is for the trial to go on."""


@dataclass(frozen=True)
class Event:
    """One thing that happens, once a step is done."""

    kind: str
    step: int


@dataclass(frozen=True)
class Strike:
    """An event that has happened, at `time` in unix seconds, to an attempt."""

    event: Event
    time: float
    attempt: int


@dataclass(frozen=True)
class Passage:
    """How a trial came through an event."""

    event: str
    planned_step: int
    survived: bool
    attempt: int
    saved_seconds: float | None
    """From the signal to the state safe on disk; None where nothing was signalled, or nothing saved."""

    left_step: int
    """The last step done before the trial was gone."""

    resumed_step: int | None
    """The step that the next attempt started from."""

    lost_steps: int
    """Steps done that the next attempt did not have."""

    repeated_steps: int
    """Steps that it was seen to do again."""

    new_step_seconds: float | None
    """From the event to the end of the first step that had not been done before."""


Sightings = Mapping[int, Mapping[int, float]]
"""Attempt -> step -> unix seconds, of every row of metrics that was ever there."""


def plan_events(steps: int, seed: int, kinds: Sequence[str] = ()) -> tuple[Event, ...]:
    """The events of a run of so many steps: `kinds` in this order, else each of KINDS once, in random order.

    Each comes at a random step of its share of the run, so that all but the first strike an attempt that resumed.
    """
    draw = random.Random(seed)
    order = list(kinds) or draw.sample(list(KINDS), len(KINDS))
    assert steps >= STEPS_PER_EVENT * len(order), steps
    share = steps / len(order)
    return tuple(Event(kind, 1 + int(share * (index + ROOM * draw.random()))) for index, kind in enumerate(order))


def left_step(strike: Strike, attempts: Iterable[Mapping[str, Any]], seen: Sightings) -> int:
    """The last step of the attempt that was struck."""
    ends = [row["end_step"] for row in attempts if row["event"] == "end" and row["attempt"] == strike.attempt]
    return max(0, *seen.get(strike.attempt, ()), *(int(step) for step in ends if step is not None))


def describe_passage(strike: Strike, attempts: Sequence[Mapping[str, Any]], seen: Sightings, done: bool) -> Passage:
    """How the trial came through: `attempts` are the rows of attempts.jsonl, `done` says that it has a result."""
    left = left_step(strike, attempts, seen)
    starts = {
        row["attempt"]: row["start_step"]
        for row in attempts
        if row["event"] == "start" and row["attempt"] > strike.attempt
    }
    # The first that got further; where there was no further step, the last one has only ended the trial.
    further = [attempt for attempt in starts if max(seen.get(attempt, ()), default=0) > left]
    heir = next(iter(further or (list(starts)[-1:] if done else [])), None)
    resumed = None if heir is None else starts[heir]
    times = {} if heir is None else seen.get(heir, {})
    new = [step for step in times if step > left]
    ends = [row for row in attempts if row["event"] == "end" and row["attempt"] == strike.attempt]
    reached = left if done else 0
    return Passage(
        event=strike.event.kind,
        planned_step=strike.event.step,
        survived=heir is not None or done,
        attempt=strike.attempt,
        saved_seconds=ends[0]["signal_to_saved_seconds"] if ends else None,
        left_step=left,
        resumed_step=resumed,
        lost_steps=left - min(left, reached if resumed is None else resumed),
        repeated_steps=sum(resumed < step <= left for step in times) if resumed is not None else 0,
        new_step_seconds=times[min(new)] - strike.time if new else None,
    )


def compare(
    rows: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]], result: Any, other: Any
) -> list[str]:
    """In what two runs of a trial differ, one line each: rows of metrics, but for times and attempts, and results."""
    differing = [] if result["fingerprint"] == other["fingerprint"] else ["the fingerprints of the final states differ"]
    one, two = ({row["step"]: _of_the_trial(row) for row in each} for each in (rows, others))
    if len(one) != len(rows):
        differing.append("a step stands twice in the metrics")
    if missing := sorted(two.keys() - one.keys()):
        differing.append(f"steps without a row: {_some(missing)}")
    if more := sorted(one.keys() - two.keys()):
        differing.append(f"rows of steps that the other run does not have: {_some(more)}")
    for step in sorted(one.keys() & two.keys()):
        if one[step] != two[step]:
            differing.append(f"step {step} is the first with other metrics: {one[step]}, uninterrupted {two[step]}")
            break
    return differing


def _of_the_trial(row: Mapping[str, Any]) -> str:
    """As text, in which nan equals nan."""
    return json.dumps({key: value for key, value in row.items() if key not in ("step", "time", "attempt")})


def _some(steps: list[int]) -> str:
    return ", ".join(map(str, steps[:5])) + (f", ... ({len(steps)})" if len(steps) > 5 else "")


@dataclass(frozen=True)
class Report:
    """A rehearsal that has ended."""

    experiment: str
    trial: str
    folder: str
    seed: int
    steps: int
    ranks: int
    nodes: int
    """On which the trial ran."""

    passages: tuple[Passage, ...]
    planned: int
    """How many events there were to be."""

    differences: tuple[str, ...]
    """Between the interrupted and the uninterrupted run."""

    note: str = ""
    """Why it ended early, where it did."""

    @property
    def passed(self) -> bool:
        survived = sum(passage.survived for passage in self.passages)
        return survived == self.planned and not self.differences and not self.note

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"passed": self.passed}

    def verdict(self) -> list[str]:
        """The last lines for people."""
        survived = sum(passage.survived for passage in self.passages)
        lines = [f"{survived} of {self.planned} events survived (seed {self.seed})"]
        if self.note:
            lines.append(self.note)
        elif self.differences:
            lines += [f"not the uninterrupted run: {line}" for line in self.differences]
        else:
            lines.append(f"bit for bit the uninterrupted run: fingerprint and all rows of {self.steps} steps are equal")
        return lines


HEADS = ["event", "survived", "saved after", "left at", "resumed at", "lost", "repeated", "new step after"]


def passages_table(passages: Iterable[Passage]) -> Table:
    """One row an event; steps but for the seconds."""
    table = new_table(HEADS)
    for each in passages:
        cells = [
            KINDS[each.event],
            "yes" if each.survived else "NO",
            _seconds(each.saved_seconds),
            str(each.left_step),
            "" if each.resumed_step is None else str(each.resumed_step),
            str(each.lost_steps),
            str(each.repeated_steps),
            _seconds(each.new_step_seconds),
        ]
        table.add_row(*cells)
    return table


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} s"
