"""How far each rank has got: counted in memory at every named place, written to a small file every few seconds.

The files lie in the attempt's token folder and are read by the other ranks when one of them is behind or gone: a
collective could not tell, since that is what they wait in.
"""

import json
import os
import statistics
import time
from collections import deque
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import NamedTuple

from runner.attempt import Attempt
from runner.files import read_json
from runner.ledger import EVALUATION, IDLE, RESTORING, SAVING, START_UP, TRAINING, Reading

LAPS = {place: "step" for place in ("step", "forward", "backward", "update", "step.end")}
LAPS["evaluate.batch"] = "evaluate.batch"
"""Places that come again and again, and the one of them whose passages are timed."""

KIND_FROM = {
    "start": START_UP,
    "build": START_UP,
    "restore": RESTORING,
    "warm": START_UP,
    "step": TRAINING,
    "checkpoint": SAVING,
    "evaluate": EVALUATION,
    "evaluate.end": TRAINING,
    "end": IDLE,
    "leave": IDLE,
}
"""Places from which on a rank's time is of another kind; at all others it stays what it is."""

LAPS_KEPT = 100
BYTES = 1024
"""Of a heartbeat file."""


class Moment(NamedTuple):
    """The last progress of a rank."""

    passed: int
    """Places so far."""

    place: str
    step: int
    at: float
    """time.monotonic()."""


class Spent(NamedTuple):
    """Where a rank's time has gone; replaced as a whole, since the watchdog reads it at any time."""

    kind: str
    """What the rank is at."""

    since: float
    """time.monotonic()."""

    seconds: dict[str, float]
    """By kind, until then."""


class Pulse:
    """What a rank's main thread leaves for its watchdog; a microsecond a place.

    Its time is of one kind at every moment, so the kinds sum to the time since `launched`, in unix seconds, or now.
    """

    def __init__(self, launched: float | None = None) -> None:
        now = time.monotonic()
        self.last = Moment(0, "start", 0, now)
        before = max(time.time() - launched, 0.0) if launched is not None else 0.0
        self._spent = Spent(START_UP, now, {START_UP: before})
        self._passed: dict[str, float] = {}
        self._laps = {place: deque[float](maxlen=LAPS_KEPT) for place in set(LAPS.values())}

    def at(self, place: str, step: int | None = None) -> None:
        """Pass a place; that is progress."""
        now = time.monotonic()
        if (laps := self._laps.get(place)) is not None:
            if place in self._passed:
                laps.append(now - self._passed[place])
            self._passed[place] = now
        before, spent = self.last, self._spent
        self.last = Moment(before.passed + 1, place, before.step if step is None else step, now)
        if (kind := KIND_FROM.get(place, spent.kind)) != spent.kind:
            self._spent = Spent(kind, now, _add(spent, now))

    def read(self) -> Reading:
        """Where the time has gone until now, and how far the rank has got."""
        spent = self._spent
        return Reading(time.time(), self.last.step, _add(spent, time.monotonic()), spent.kind)

    def typical_seconds(self, place: str) -> float | None:
        """The median time between two passages of a place that comes again and again; None while unknown."""
        laps = list(self._laps.get(LAPS.get(place, ""), ()))
        return statistics.median(laps) if laps else None


def _add(spent: Spent, now: float) -> dict[str, float]:
    return spent.seconds | {spent.kind: spent.seconds.get(spent.kind, 0.0) + now - spent.since}


@dataclass(frozen=True)
class Beat:
    """What a rank's heartbeat file says."""

    rank: int
    host: str
    pid: int
    passed: int
    place: str
    step: int
    since: float
    """Unix seconds of the last progress."""

    time: float
    """Unix seconds of the heartbeat."""

    patience: float
    """Seconds that the rank may stay where it is."""

    kind: str = ""
    """What its time is spent on; empty where nobody asked."""

    seconds: dict[str, float] = field(default_factory=dict)
    """Where the time of this launch has gone, until the heartbeat."""


def write_beat(attempt: Attempt, last: Moment, patience: float, reading: Reading | None = None) -> Beat:
    """Leave word of the last progress of this rank; a disk that is full or away changes nothing."""
    now = time.time()
    since = now - (time.monotonic() - last.at)
    me = attempt.rank, os.uname().nodename, os.getpid()
    beat = Beat(*me, last.passed, last.place, last.step, since, now, patience)
    if reading is not None:
        beat = replace(beat, time=reading.time, kind=reading.kind, seconds=reading.rounded())
    # One write over the last one, of the same length: a reader sees one of them whole, and a kill leaves no file
    # beside it. No fsync: after a power loss nobody asks, and a slow disk must not be made slower.
    with suppress(OSError):
        descriptor = os.open(attempt.run.beat(attempt.number, attempt.rank), os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.pwrite(descriptor, json.dumps(asdict(beat)).ljust(BYTES).encode(), 0)
        finally:
            os.close(descriptor)
    return beat


def read_beats(attempt: Attempt, world: int) -> list[Beat]:
    """The newest heartbeat of each rank; -1 places passed where there is none."""
    beats = []
    for rank in range(world):
        try:
            found = read_json(attempt.run.beat(attempt.number, rank))
            beats.append(Beat(**found) if found else _silent(rank))
        except (OSError, ValueError, TypeError):
            beats.append(_silent(rank))
    return beats


def _silent(rank: int) -> Beat:
    return Beat(rank, host="", pid=0, passed=-1, place="start", step=0, since=0.0, time=0.0, patience=0.0)


def find_behind(beats: list[Beat]) -> Beat:
    """The rank that the others wait for: of least progress, of equals the one without a newer heartbeat."""
    return min(beats, key=lambda beat: (beat.passed, beat.time, beat.since))


def is_excused(beat: Beat, unchanged_seconds: float, fresh_seconds: float) -> bool:
    """Whether a rank that is behind lives and is where things take their time, such as a checkpoint being verified.

    Those who wait for it then wait longer than their own places allow. `unchanged_seconds`: how long whoever asks has
    seen this very heartbeat, since clocks of two machines say nothing of each other.
    """
    return unchanged_seconds < fresh_seconds and beat.time - beat.since < beat.patience


def describe(beat: Beat, now: float) -> str:
    """What a rank that is behind did not do, in words; `now` in unix seconds."""
    if beat.passed < 0:
        return f"rank {beat.rank} gave no sign of life"
    return f"rank {beat.rank} made no step for {now - beat.since:.0f} s in {beat.place} after step {beat.step}"
