"""What a rank finds out about the others when it loses them: the first to fail names the cause for all.

A peer that died shows as a broken connection, in words of gloo or NCCL that say nothing of why.
"""

import os
import time
from typing import Any

from runner.attempt import Attempt
from runner.errors import RunnerError
from runner.evidence import read_crashes
from runner.heartbeat import read_beats
from runner.processes import is_running

PATIENCE_SECONDS = 1.0
POLL_SECONDS = 0.05


class PeerError(RunnerError):
    """Another rank ended; the message says which one and why."""


def explain(attempt: Attempt, world: int, error: BaseException) -> PeerError:
    """What lies behind a lost connection: another rank's own word, or that a rank of this host is gone without one.

    Waits up to PATIENCE_SECONDS, since a rank may close its connections before it has written why.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (known := _first_cause(attempt)) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    if known:
        return PeerError(f"because of rank {known['rank']}: {known['cause']}: {known['error']}")
    if (rank := _find_dead(attempt, world)) is not None:
        return PeerError(f"because of rank {rank}: killed: it ended without a word")
    said = (str(error).splitlines() or [type(error).__name__])[0]
    return PeerError(f"because of a rank that ended without a word, killed or cut off: {said}")


def _first_cause(attempt: Attempt) -> dict[str, Any] | None:
    crashes = read_crashes(attempt.run, attempt.number)
    named = [crash for crash in crashes if crash["cause"] != "peer crash" and crash["rank"] != attempt.rank]
    return next(iter(named), None)


def _find_dead(attempt: Attempt, world: int) -> int | None:
    """A rank of this host whose process is gone, and that left no word."""
    spoken = {crash["rank"] for crash in read_crashes(attempt.run, attempt.number)}
    for beat in read_beats(attempt, world):
        here = beat.host == os.uname().nodename
        if here and beat.rank not in spoken and beat.rank != attempt.rank and not is_running(beat.pid):
            return beat.rank
    return None
