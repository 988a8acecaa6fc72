"""Checkpoints written by a thread while training goes on; at most one is in flight.

The ranks' threads use no collective: the training they run beside may be in the middle of one. A rank whose file is
on disk leaves a note beside it, and rank 0's thread commits once it has read the notes of all.
"""

import contextlib
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner import checkpoint, lineage
from runner.attempt import Attempt
from runner.errors import CheckpointError
from runner.faults import NO_FAULTS, Faults
from runner.files import read_json, write_json
from runner.group import Group
from runner.rundir import RunDir

PATIENCE_SECONDS = 600
"""How long rank 0 waits for the notes of the others."""

POLL_SECONDS = 0.02


class GivenUpError(Exception):
    """Nobody needs the checkpoint in flight any more: a newer one is about to be written."""


@dataclass(frozen=True)
class Flight:
    """The checkpoint in flight."""

    step: int
    began: float
    """time.monotonic() when its copy of the state was begun."""

    blocking_seconds: float
    """How long training stood still for it."""


class Background:
    """A thread for one piece of work at a time, which can be given up."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._given_up = threading.Event()
        self._error: Exception | None = None
        self._cpu_seconds = 0.0
        self.seconds = 0.0
        """How long the last work took, until it was over."""

    @property
    def is_busy(self) -> bool:
        """Work has been started and not been collected; it may be over."""
        return self._thread is not None

    @property
    def is_over(self) -> bool:
        return self._thread is not None and not self._thread.is_alive()

    def start(self, work: Callable[[Callable[[], None]], None]) -> None:
        """Begin; `work` calls its argument now and then, which raises GivenUpError once nobody needs it any more."""
        assert self._thread is None, "one at a time"
        self._given_up.clear()
        self._error = None

        def check() -> None:
            if self._given_up.is_set():
                raise GivenUpError

        def run() -> None:
            began = time.monotonic()
            try:
                work(check)
            except Exception as error:
                self._error = error
            self._cpu_seconds, self.seconds = time.thread_time(), time.monotonic() - began

        # A daemon: a process that must leave at once does not wait for a disk.
        self._thread = threading.Thread(target=run, name="checkpoint", daemon=True)
        self._thread.start()

    def collect(self) -> float:
        """Wait for the end of the work; the seconds of CPU time it took. Raises: what the work raised."""
        assert self._thread is not None
        self._thread.join()
        self._thread = None
        if self._error is not None:
            raise self._error
        return self._cpu_seconds

    def give_up(self) -> None:
        """Ask the work to stop where it can; `collect` says whether it was over first."""
        self._given_up.set()


def write(
    run: RunDir,
    group: Group,
    attempt: Attempt,
    step: int,
    shared: dict[str, Any],
    own: dict[str, Any],
    facts: dict[str, Any],
    check: Callable[[], None],
    faults: Faults = NO_FAULTS,
) -> None:
    """This rank's part of a checkpoint, as `checkpoint.save` writes it but without a collective; rank 0 commits.

    What it is given must not change meanwhile. `check` may raise at any time before the commit, which is not torn.
    Raises: CheckpointError; on rank 0 also where another rank could not write its part.
    """
    # Apart from the folder that `checkpoint.save` would use, should this fail and the same step be saved again.
    beside = run.checkpoints / f".tmp-{lineage.name_of(step, attempt.number)}.background"
    try:
        if group.is_main:
            faults.at("checkpoint")
        checkpoint.make_folder(run)
        beside.mkdir(exist_ok=True)
        size, digest = checkpoint.write_part(beside, group.rank, shared, own, faults, check)
        file = {"size": size, "sha256": digest.hex()}
        if not group.is_main:
            write_json(_note(beside, group.rank), file)
            return
        files = [file, *(_wait_for_note(beside, rank, step, check) for rank in range(1, group.world))]
        check()
    except Exception as error:
        _clear_away(beside, group)
        # torch wraps what its file raises, a full disk or our own check, in a RuntimeError of its own.
        check()
        if isinstance(error, OSError | RuntimeError):
            raise CheckpointError(f"step {step}: rank {group.rank} could not write its part: {error}") from error
        raise
    problem = checkpoint.commit(run, beside, attempt, step, files, facts, faults)
    if problem is not None:
        raise CheckpointError(f"step {step}: rank 0 could not commit it: {problem}") from problem


def _clear_away(beside: Path, group: Group) -> None:
    """Rank 0 removes what was written; another rank says that it failed, lest rank 0 wait."""
    if group.is_main:
        shutil.rmtree(beside, ignore_errors=True)
        return
    with contextlib.suppress(OSError):
        _failed(beside, group.rank).touch()


def _note(beside: Path, rank: int) -> Path:
    return beside / f"rank_{rank:05d}.json"


def _failed(beside: Path, rank: int) -> Path:
    """A name alone says it: on a full disk there is room for no more."""
    return beside / f"rank_{rank:05d}.failed"


def _wait_for_note(beside: Path, rank: int, step: int, check: Callable[[], None]) -> dict[str, Any]:
    """What a rank has written, once it has; the note is gone then, for it is no part of the checkpoint."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (note := read_json(_note(beside, rank))) is None:
        check()
        if _failed(beside, rank).exists():
            raise CheckpointError(f"step {step}: rank {rank} could not write its part: see its log")
        if time.monotonic() > deadline:
            raise CheckpointError(f"step {step}: rank {rank} did not write its part within {PATIENCE_SECONDS} s")
        time.sleep(POLL_SECONDS)
    _note(beside, rank).unlink()
    return note
