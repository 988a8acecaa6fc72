"""When to leave without being told: a job's time is up at a known moment, and a signal before it may not come."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from runner import slurm
from runner.errors import SubmissionError
from runner.preemption import LATENCY_SECONDS, Preemption
from runner.processes import log
from runner.slurm_text import parse_time

MARGIN_SECONDS = 15
"""For the requeue, and for a machine that is slower just now than it was."""

UNKNOWN_SAVE_SECONDS = 10.0
REREAD_SECONDS = 45
"""So long before leaving the scheduler is asked anew, which may take it TIMEOUT_SECONDS."""

FADING = 0.95
"""A slow step counts less with every later one: the first is slow because it is the first."""


class TimeLimit:
    """The end of this job as rank 0 sees it, and what is known of how long stopping takes."""

    def __init__(self, end: float | None = None, ask: Callable[[], float | None] = lambda: None) -> None:
        self.began = time.time()
        self.end = end
        """Unix seconds; None where nothing limits the time."""

        self.step_seconds = 0.0
        self.save_seconds: float | None = None
        self._ask = ask
        self._asked = False

    def observe_step(self, seconds: float) -> None:
        self.step_seconds = max(seconds, FADING * self.step_seconds)

    def observe_save(self, seconds: float) -> None:
        self.save_seconds = max(seconds, self.save_seconds or 0.0)

    def is_up(self, now: float) -> bool:
        """Whether to leave now; asks the scheduler anew when it is about to be, since a limit can be extended."""
        if self.end is None:
            return False
        if not self._asked and now >= self._last_moment(self.end) - REREAD_SECONDS:
            self._asked = True
            end = self._ask()
            if end is not None and end != self.end:
                self.end, self._asked = end, False
        return now >= self._last_moment(self.end)

    def _last_moment(self, end: float) -> float:
        saving = UNKNOWN_SAVE_SECONDS if self.save_seconds is None else self.save_seconds
        return last_moment(self.began, end, self.step_seconds, saving)


def last_moment(
    began: float, end: float, step_seconds: float, save_seconds: float, margin_seconds: float = MARGIN_SECONDS
) -> float:
    """The moment to ask the ranks to leave, so that they have agreed, saved and requeued before the end.

    They agree within two comparisons, and each ends the step it is in. Half of the time is for training in any case:
    a job that is too short for its saves should still come forward. Unix seconds.
    """
    needed = 2 * (LATENCY_SECONDS + step_seconds) + 2 * save_seconds + margin_seconds
    return end - min(needed, (end - began) / 2)


def of_job(job_id: str) -> TimeLimit:
    """The limit of the Slurm job this process is in; none outside of one."""
    if "SLURM_JOB_ID" not in os.environ or job_id == "debug":
        return TimeLimit()
    told = os.environ.get("SLURM_JOB_END_TIME", "")
    return TimeLimit(float(told) if told.isdigit() else end_of(job_id), lambda: end_of(job_id))


def end_of(job_id: str) -> float | None:
    """When a job's time is up, by Slurm; None when it has no limit, or Slurm does not answer."""
    try:
        return parse_time(slurm.show_job(job_id).get("EndTime", ""))
    except SubmissionError as error:
        print(f"runner: scontrol did not answer: {error}", flush=True)
        return None


@contextmanager
def keeping(limit: TimeLimit, preemption: Preemption, every_seconds: float = 1.0) -> Iterator[None]:
    """Raise the flag when it is time to leave; a thread looks, so that an evaluation is ended by it too."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(every_seconds):
            if limit.is_up(time.time()) and not over.is_set():
                preemption.raise_time_limit()
                log("the time of this job is nearly up")
                break

    if limit.end is not None:
        threading.Thread(target=look, name="time limit", daemon=True).start()
    try:
        yield
    finally:
        # Nobody waits for a thread that waits for scontrol.
        over.set()
