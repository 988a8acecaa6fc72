"""A thread of each rank that sees when the rank, or the whole trial, does not get on, and ends it with a reason.

A hang would otherwise hold its nodes until the time limit and say nothing. Every few seconds the thread writes the
rank's heartbeat and looks whether the main thread has passed another named place in time. When it has not, the rank
that is furthest behind is named in a file, all ranks read it there (a collective is what they hang in), write the
stacks of all their threads into their logs, and end with the exit code that asks for another try. On rank 0 it also
looks whether a newer attempt has taken over.
"""

import faulthandler
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runner.attempt import Attempt, newest_token
from runner.errors import RunnerError
from runner.files import read_json
from runner.heartbeat import Beat, Pulse, describe, find_behind, is_excused, read_beats, write_beat
from runner.peers import PeerError
from runner.processes import EXIT_TRY_AGAIN, log

if TYPE_CHECKING:
    from runner.preemption import Preemption

LONG = ("build", "evaluate.probe")
"""Places whose length is the user's choice: data that are fetched and decoded, a probe that is fitted."""

FRESH_BEATS = 3
"""A rank whose last heartbeat is older than so many of them is stopped, or gone."""


class HangError(RunnerError):
    """A rank did not get on; the message says which one and where."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How long a rank may stay where it is, by where that is."""

    step_seconds: float = 60.0
    """Between two places of a step or two batches of an evaluation, at least."""

    medians: float = 20.0
    """And at least so many of the usual time between two steps, or two batches."""

    slow_seconds: float = 600.0
    """Before the first step or batch, at an epoch's ends, while saving, leaving, and everywhere else."""

    long_seconds: float = 3600.0
    """At the places in LONG."""

    stuck_seconds: float = 660.0
    """The watchdog itself must get to run so often: code that keeps Python's lock for ever keeps it from that, and a
    clock in C ends the process. Long, because a process that is suspended and woken up looks the same to it."""

    beat_seconds: float = 3.0
    """Between two heartbeats, and two looks for what the other ranks say."""

    def patience_seconds(self, place: str, typical_seconds: float | None) -> float:
        """How long a rank may be at a place whose passages are usually so far apart, None if that is not known."""
        if place in LONG:
            return self.long_seconds
        if typical_seconds is None:
            return self.slow_seconds
        return max(self.step_seconds, self.medians * typical_seconds)


class Watchdog:
    """The watchdog of one rank of an attempt; `run` is its thread."""

    def __init__(self, attempt: Attempt, world: int, pulse: Pulse, preemption: "Preemption", limits: Limits) -> None:
        self.attempt, self.world, self.pulse, self.preemption, self.limits = attempt, world, pulse, preemption, limits
        self.over = threading.Event()
        self._counts_from = time.monotonic()
        self._seen = (-1, 0.0, 0.0)
        """Whose heartbeat of when was the last to be waited for, and since when by this rank's clock."""

    def run(self) -> None:
        pause, before = 0.0, time.monotonic()
        try:
            while not self.over.wait(pause):
                now = time.monotonic()
                if now - before > pause + self.limits.step_seconds / 2:
                    # This process was stopped for a while; nobody can have got on meanwhile.
                    self._counts_from = now
                faulthandler.dump_traceback_later(self.limits.stuck_seconds, exit=True, file=2)
                before, pause = now, self.limits.beat_seconds
                # A disk that is full or away must not end the only one who looks.
                with suppress(OSError):
                    pause = self.look(now)
        finally:
            faulthandler.cancel_dump_traceback_later()

    def look(self, now: float) -> float:
        """One heartbeat; the seconds until the next. Does not return from a hang."""
        last = self.pulse.last
        patience = self.limits.patience_seconds(last.place, self.pulse.typical_seconds(last.place))
        write_beat(self.attempt, last, patience, self.pulse.read())
        if found := self._read_hang():
            self._end(found)
        if self.attempt.rank == 0 and self._is_superseded():
            self.preemption.supersede()
        left = patience - (now - max(last.at, self._counts_from))
        # Looked at once more, because it may have got on since.
        if left <= 0 and self.pulse.last.passed == last.passed:
            behind = find_behind(read_beats(self.attempt, self.world))
            waits = behind.rank != self.attempt.rank
            if self._seen[:2] != (behind.rank, behind.time):
                self._seen = behind.rank, behind.time, now
            if not (waits and is_excused(behind, now - self._seen[2], FRESH_BEATS * self.limits.beat_seconds)):
                self._end(self._report(behind))
        return min(max(left, self.limits.beat_seconds / 10), self.limits.beat_seconds)

    def _is_superseded(self) -> bool:
        with suppress(OSError):
            return newest_token(self.attempt.run) > self.attempt.number
        return False

    def _read_hang(self) -> dict[str, Any] | None:
        # No mapping yet: it is being written.
        with suppress(OSError, ValueError):
            return read_json(self.attempt.run.hang(self.attempt.number))
        return None

    def _report(self, behind: Beat) -> dict[str, Any]:
        """Name the rank that is behind, unless another rank has: the first word counts for all."""
        found = {"rank": behind.rank, "step": behind.step, "error": describe(behind, time.time()), "time": time.time()}
        path = self.attempt.run.hang(self.attempt.number)
        try:
            with path.open("x") as file:
                file.write(json.dumps(found))
        except FileExistsError:
            return self._read_hang() or found
        except OSError as error:
            log(f"{path} cannot be written: {error}", sys.stderr)
            return found
        # On its behalf: it may be stopped, and then never says so itself.
        with suppress(OSError):
            Attempt(self.attempt.run, self.attempt.number, behind.rank).record_crash(
                HangError(found["error"]), "hang", behind.step
            )
        return found

    def _end(self, found: dict[str, Any]) -> None:
        """Leave with all that is known in the log and on disk, as far as these take it."""
        try:
            self._tell(found)
        finally:
            os._exit(EXIT_TRY_AGAIN)

    def _tell(self, found: dict[str, Any]) -> None:
        log(f"hang: {found['error']}; the stacks of all threads follow", sys.stderr)
        faulthandler.dump_traceback(file=2, all_threads=True)
        if self.attempt.rank != found["rank"]:
            error = PeerError(f"because of rank {found['rank']}: hang: {found['error']}")
            with suppress(OSError):
                self.attempt.record_crash(error, "peer crash", self.pulse.last.step)
        self._mark_ended()
        # Whose peer ends is told so by its connections, and would not come to its stacks any more.
        deadline = time.monotonic() + 2 * self.limits.beat_seconds
        while time.monotonic() < deadline and not all(map(self._has_ended, range(self.world))):
            time.sleep(self.limits.beat_seconds / 20)

    def _mark_ended(self) -> None:
        with suppress(OSError):
            self.attempt.run.dumped(self.attempt.number, self.attempt.rank).touch()

    def _has_ended(self, rank: int) -> bool:
        return self.attempt.run.dumped(self.attempt.number, rank).exists()


@contextmanager
def guarding(
    attempt: Attempt, world: int, preemption: "Preemption", limits: Limits | None, launched: float | None = None
) -> Iterator[Pulse]:
    """Watch over a rank while the block runs, by the pulse that it is given; its launch began at `launched`.

    With limits None nothing is taken for a hang: somebody may sit at a debugger.
    """
    if limits is None:
        limits = Limits(**dict.fromkeys(("slow_seconds", "step_seconds", "long_seconds", "stuck_seconds"), 1e7))
    pulse = Pulse(launched)
    watchdog = Watchdog(attempt, world, pulse, preemption, limits)
    thread = threading.Thread(target=watchdog.run, name="watchdog", daemon=True)
    thread.start()
    try:
        yield pulse
    finally:
        watchdog.over.set()
        thread.join()
