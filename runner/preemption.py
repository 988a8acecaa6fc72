"""A signal raises a flag; all ranks agree on one step boundary; the trainer saves there and then leaves.

A Python signal handler does not run while the main thread is inside a collective, and exiting or saving from a
handler tears the state of the ranks. So the C-level wake-up descriptor feeds a thread, the thread raises a flag, and
the flag is a number that the ranks compare over the control group.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from runner.group import Group
from runner.processes import EXIT_TERMINATED, is_running, looking

SIGNALS = (signal.SIGUSR2, signal.SIGTERM)
LATENCY_SECONDS = 0.5
"""Ranks compare flags about this often; each comparison costs about a millisecond over gloo."""

MAX_STEPS_BETWEEN_POLLS = 100


class Verdict(IntEnum):
    """What the ranks agreed to do; the larger one wins."""

    GO_ON = 0
    SAVE = 1
    """Save and leave; somebody else (TERM: a scancel, a requeue or a preemption) decides what follows."""

    REQUEUE = 2
    """Save, requeue this job, and leave."""

    LEAVE = 3
    """Leave and write nothing more: a newer attempt has taken over."""


class Interrupted(Exception):  # noqa: N818 - nothing went wrong
    """The ranks agreed to stop in the middle of something that can be redone, such as an evaluation."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.name)
        self.verdict = verdict


@dataclass(frozen=True)
class Answer:
    """What all ranks agreed on at a step boundary."""

    verdict: Verdict = Verdict.GO_ON
    save: bool = False
    """Rank 0's clock says that a periodic checkpoint is due."""


class Preemption:
    """The flag of this rank, and the agreement of all."""

    def __init__(self, latency_seconds: float = LATENCY_SECONDS) -> None:
        self.flag = Verdict.GO_ON
        self.latency_seconds = latency_seconds
        """How long a flag may go unnoticed by the other ranks, about."""

        self.first_signal: float | None = None
        """time.time() of the first signal this process got, or of the end of its patience with a time limit."""

        self.time_is_up = False
        """This process left because of its time limit, of which no signal had told it."""

        self.previous_usr2: Callable[[int, FrameType | None], Any] | int | None = None
        """The handler found on USR2, submitit's in a job: it requeues."""

        self._next_poll = 0
        self._pending: tuple[torch.Tensor, Any] | None = None
        self._last: tuple[int, float] | None = None

    def raise_flag(self, signum: int) -> None:
        if self.first_signal is None:
            self.first_signal = time.time()
        wanted = Verdict.REQUEUE if signum == signal.SIGUSR2 else Verdict.SAVE
        self.flag = max(self.flag, wanted)

    def raise_time_limit(self) -> None:
        """Leave for a requeue, unless a signal came first: that may mean something else."""
        if self.flag is Verdict.GO_ON:
            self.time_is_up = True
            self.raise_flag(signal.SIGUSR2)

    def supersede(self) -> None:
        """A newer attempt has taken over."""
        self.flag = Verdict.LEAVE

    def agree(self, group: Group) -> Verdict:
        """Compare flags now; a collective call."""
        return Verdict(group.agree_max(self.flag))

    def check(self, group: Group) -> None:
        """Raise Interrupted on all ranks if any was signalled; a collective call for places other than a step."""
        verdict = self.agree(group)
        if verdict:
            raise Interrupted(verdict)

    def poll(self, group: Group, step: int, save_due: bool = False) -> "Answer":
        """At a step boundary: what all ranks do now.

        One rank answers at once. Several ranks compare their wishes in an asynchronous all-reduce whose answer is
        read at the next poll, so that no step waits for it. The answer comes at the same step on every rank because
        the number of steps until the next comparison is part of it.
        """
        if group.world == 1:
            return Answer(self.flag, save_due)
        if step < self._next_poll:
            return Answer()
        answer, spacing = Answer(), 1
        if self._pending is not None:
            message, work = self._pending
            work.wait()
            verdict, save, spacing = message.tolist()
            answer = Answer(Verdict(verdict), bool(save))
        now = time.monotonic()
        wanted = 1
        if self._last is not None and step > self._last[0]:
            seconds_per_step = (now - self._last[1]) / (step - self._last[0])
            wanted = int(min(max(self.latency_seconds / 2 / max(seconds_per_step, 1e-6), 1), MAX_STEPS_BETWEEN_POLLS))
        self._last = (step, now)
        # What was just agreed on must not be asked for again by the request already under way.
        again = save_due and not answer.save
        message = torch.tensor([int(self.flag), int(again), wanted], dtype=torch.int64)
        work = dist.all_reduce(message, op=dist.ReduceOp.MAX, group=group.control, async_op=True)
        self._pending = (message, work)
        self._next_poll = step + spacing
        return answer

    def settle(self) -> None:
        """Wait for a comparison still under way, so that the process group can be left."""
        if self._pending is not None:
            self._pending[1].wait()
            self._pending = None


@contextmanager
def watching(latency_seconds: float = LATENCY_SECONDS) -> Iterator[Preemption]:
    """Turn USR2 and TERM into the flag of a Preemption, even while the main thread is in C++ or they were blocked.

    Must be entered in the main thread. Once a signal came, the handlers stay installed at the end: a job that is
    leaving must not die of a second signal before it has requeued.
    """
    preemption = Preemption(latency_seconds)
    handler = signal.getsignal(signal.SIGUSR2)
    preemption.previous_usr2 = handler
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    before = {signum: signal.signal(signum, lambda *_: None) for signum in SIGNALS}
    wakeup_before = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)

    def watch() -> None:
        while received := os.read(read_end, 64):
            for signum in received:
                if signum in SIGNALS:
                    preemption.raise_flag(signum)
        os.close(read_end)

    threading.Thread(target=watch, name="preemption", daemon=True).start()
    # What arrived while the launcher had the signals blocked is delivered now.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    try:
        yield preemption
    finally:
        if preemption.flag is Verdict.GO_ON:
            signal.set_wakeup_fd(wakeup_before)
            for signum, previous in before.items():
                signal.signal(signum, previous)
            os.close(write_end)


@contextmanager
def heeding(cancelled: Path, preemption: Preemption, every_seconds: float = 1.0) -> Iterator[None]:
    """Take a file that appears for a TERM: whoever would send the signal may be dead, or on another machine.

    A thread looks, so that it is noticed in the middle of an evaluation too and no step waits for a file server.
    """

    def look(over: threading.Event) -> None:
        while not over.wait(every_seconds):
            with suppress(OSError):  # of a file server that is away for a moment
                if cancelled.exists():
                    preemption.raise_flag(signal.SIGTERM)
                    break

    with looking(look, "cancellation"):
        yield


@contextmanager
def outlived_by(supervisor: int, preemption: Preemption, patience_seconds: float = 6.0) -> Iterator[None]:
    """Take the end of a process for a TERM: nobody would start this one again, or end it.

    Whoever has not saved and left within `patience_seconds` of it is ended.
    """

    def look(over: threading.Event) -> None:
        while not over.wait(1.0):
            if not is_running(supervisor):
                preemption.raise_flag(signal.SIGTERM)
                over.wait(patience_seconds)
                # Nobody waits for an exit code any more, and taking torch down in order takes seconds.
                os._exit(EXIT_TERMINATED)

    with looking(look, "supervisor"):
        yield


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Children started here (loader workers, wandb's service) never answer USR2 or TERM: they inherit the mask."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
