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
from dataclasses import asdict, dataclass
from typing import NamedTuple

from runner.attempt import Attempt
from runner.files import read_json

LAPS = {place: "step" for place in ("step", "forward", "backward", "update", "step.end")}
LAPS["evaluate.batch"] = "evaluate.batch"
"""Places that come again and again, and the one of them whose passages are timed."""

LAPS_KEPT = 100
BYTES = 512
"""Of a heartbeat file."""


class Moment(NamedTuple):
    """The last progress of a rank."""

    passed: int
    """Places so far."""

    place: str
    step: int
    at: float
    """time.monotonic()."""


class Pulse:
    """What a rank's main thread leaves for its watchdog; a microsecond a place."""

    def __init__(self) -> None:
        self.last = Moment(0, "start", 0, time.monotonic())
        self._passed: dict[str, float] = {}
        self._laps = {place: deque[float](maxlen=LAPS_KEPT) for place in set(LAPS.values())}

    def at(self, place: str, step: int | None = None) -> None:
        """Pass a place; that is progress."""
        now = time.monotonic()
        if (laps := self._laps.get(place)) is not None:
            if place in self._passed:
                laps.append(now - self._passed[place])
            self._passed[place] = now
        before = self.last
        self.last = Moment(before.passed + 1, place, before.step if step is None else step, now)

    def typical_seconds(self, place: str) -> float | None:
        """The median time between two passages of a place that comes again and again; None while unknown."""
        laps = list(self._laps.get(LAPS.get(place, ""), ()))
        return statistics.median(laps) if laps else None


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


def write_beat(attempt: Attempt, last: Moment, patience: float) -> Beat:
    """Leave word of the last progress of this rank; a disk that is full or away changes nothing."""
    now = time.time()
    since = now - (time.monotonic() - last.at)
    me = attempt.rank, os.uname().nodename, os.getpid()
    beat = Beat(*me, last.passed, last.place, last.step, since, now, patience)
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


def is_excused(beat: Beat, now: float, fresh_seconds: float) -> bool:
    """Whether a rank that is behind lives and is where things take their time, such as a checkpoint being verified.

    Those who wait for it then wait longer than their own places allow.
    """
    return now - beat.time < fresh_seconds and beat.time - beat.since < beat.patience


def describe(beat: Beat, now: float) -> str:
    """What a rank that is behind did not do, in words; `now` in unix seconds."""
    if beat.passed < 0:
        return f"rank {beat.rank} gave no sign of life"
    return f"rank {beat.rank} made no step for {now - beat.since:.0f} s in {beat.place} after step {beat.step}"
