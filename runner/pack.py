"""A job of a cluster that holds several trials: its one task supervises them, as a local queue does on this machine.

Each trial has ranks, log, attempts, checkpoints, back-off and budgets of its own; a crash of one leaves the others.
What ends the job ends all of them: they save and leave, and only then the job is requeued, once for all. Of the trials
that are not over by then, those that had begun come first. Needs no torch: the ranks import it.

A signal comes to this process alone or to every process of the job, by how a site tracks them, so it is passed on as
TERM, and ranks that have heard it already take it for the same order.
"""

import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import submitit

from runner import slurm
from runner.config import ResourcesConfig
from runner.errors import RunnerError, SubmissionError
from runner.evidence import mark
from runner.files import check_private, read_json
from runner.job import EXIT_FAILED, PACK, launch_of, requeue
from runner.local_queue import LEAVE_SECONDS, LOOK_SECONDS, Bench, TimeUpError, work_off
from runner.masking import format_error
from runner.ownership import is_ours, is_over
from runner.packing import count_gpus, trials_at_once
from runner.processes import EXIT_TERMINATED
from runner.profile import load_profile
from runner.rundir import RunDir
from runner.slurm_text import UNDECIDED, parse_time
from runner.submission import SubmissionDir, index_of

MARGIN_SECONDS = 15
"""Before the end of a job: for its requeue, whatever becomes of a trial that does not leave."""


class GivenUpError(RunnerError):
    """Slurm has started the job again elsewhere; this one must not start anything any more."""


class SignalledError(Exception):
    """The job was told to leave."""


@dataclass(frozen=True)
class PackJob:
    """All elements of an array: each trains the trials that the manifest has in its place."""

    manifest: str
    stop_after: int | None = None

    def __call__(self) -> None:
        try:
            supervise(SubmissionDir(Path(self.manifest).parent), submitit.JobEnvironment(), self.stop_after)
        except Exception as error:
            # Not further: submitit would pickle and print the message, with the secrets that may be in it.
            print(format_error(error), file=sys.stderr, flush=True)
            sys.exit(EXIT_FAILED)

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Called by submitit when we requeue: the states are on disk already."""
        return submitit.helpers.DelayedSubmission(self)


@dataclass
class Orders:
    """The signal that this process got, and what it found on USR2 before: submitit's handler, which requeues."""

    signum: int = 0
    previous_usr2: Any = None


@dataclass
class Fence:
    """The folder of this launch; the job's newest is the only one whose supervisor may start anything."""

    folder: Path
    looked: float = field(default_factory=time.monotonic)

    def check(self) -> None:
        """Raise GivenUpError where there is a newer one; looks at most every LOOK_SECONDS."""
        if time.monotonic() - self.looked >= LOOK_SECONDS:
            self.looked = time.monotonic()
            index, number = numbers_of(self.folder)
            if newest_launch(self.folder.parent, index) > number:
                raise GivenUpError("this job was started again elsewhere; its trials are left to that")


def supervise(submission: SubmissionDir, environment: Any, stop_after: int | None = None) -> None:
    """Run the trials of an element to their ends, or until the job is told to leave; returns when all are over.

    Exits otherwise: non-zero where one failed, and for a requeue.
    """
    launch, index = launch_of(environment), index_of(environment.job_id)
    print(mark(launch), file=sys.stderr, flush=True)
    check_private(submission.path, submission.path.parents[2])
    runs = in_order(submission.elements()[index])
    os.umask(runs[0].umask())
    os.environ[PACK] = f"{launch} {os.getpid()}"
    site = load_profile(submission.profile)
    resources = ResourcesConfig.model_validate(read_json(submission.resources))
    with listening() as orders:
        fence = Fence(claim_folder(submission.path, index))

        def sleep(seconds: float) -> None:
            time.sleep(seconds)
            fence.check()
            if orders.signum:
                raise SignalledError

        bench = Bench(
            fence.folder,
            trials_at_once(site, len(runs)),
            list_gpus(count_gpus(site, resources, len(runs)), os.environ.get("CUDA_VISIBLE_DEVICES")),
            launch=launch,
            element=index,
            stop_after=stop_after,
            leave_seconds=partial(seconds_left, environment.job_id),
        )
        try:
            sleep(0)
            work_off(runs, resources, site, submission.path, sleep=sleep, bench=bench)
        except (SignalledError, TimeUpError):
            leave(runs, submission.path, environment.job_id, orders)
        except GivenUpError as error:
            print(f"runner: {error}", flush=True)
            sys.exit(EXIT_TERMINATED)
    if any(run.failure.exists() for run in runs):
        # So that the scheduler's own records, and its mails, say so.
        sys.exit(EXIT_FAILED)


def leave(runs: list[RunDir], submission: Path, job_id: str, orders: Orders) -> None:
    """Requeue the job, unless all trials are over or somebody else has decided; returns where all are over."""
    left = [run.trial for run in runs if is_ours(run, submission) and not is_over(run)]
    action = decide_job(bool(left), ask_state(job_id, orders.signum), orders.signum)
    print(f"runner: job {job_id}: {action}; to go on: {', '.join(left) or 'none'}", flush=True)
    if action == "requeue":
        requeue(orders.previous_usr2)
    if action == "leave":
        sys.exit(EXIT_TERMINATED)


def decide_job(is_left: bool, state: str | None, signum: int) -> Literal["over", "leave", "requeue"]:
    """What becomes of a job whose trials have left; `state` is Slurm's word for it, None where it did not answer.

    USR2 asks for a requeue, and so does our own clock; TERM alone may be a scancel, or a requeue under way.
    """
    if not is_left:
        return "over"
    if state is None:
        return "leave" if signum == signal.SIGTERM else "requeue"
    return "requeue" if state in UNDECIDED else "leave"


def ask_state(job_id: str, signum: int) -> str | None:
    """Slurm's word for a job; None where it does not answer, for long enough where nothing is done without it."""
    patience_seconds = slurm.ORDER_PATIENCE_SECONDS if signum == signal.SIGTERM else 0
    try:
        return slurm.show_job(job_id, patience_seconds).get("JobState", "")
    except SubmissionError as error:
        print(f"runner: scontrol did not answer: {error}", flush=True)
        return None


def seconds_left(job_id: str) -> float:
    """How long trials may take to save: until the end of the job, which a preemption brings forward, less a margin."""
    try:
        end = parse_time(slurm.show_job(job_id).get("EndTime", ""))
    except SubmissionError:
        end = None
    return LEAVE_SECONDS if end is None else max(end - time.time() - MARGIN_SECONDS, MARGIN_SECONDS)


@contextmanager
def listening() -> Iterator[Orders]:
    """Note USR2 and TERM from here on, also those that came while the launcher had them blocked."""
    orders = Orders(previous_usr2=signal.getsignal(signal.SIGUSR2))

    def note(signum: int, _frame: Any) -> None:
        # A TERM after USR2 says no more than that there is little time.
        orders.signum = orders.signum or signum

    for signum in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(signum, note)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2, signal.SIGTERM})
    yield orders


def in_order(runs: list[RunDir]) -> list[RunDir]:
    """Those that have begun first, so that they are done before others begin."""
    return sorted(runs, key=lambda run: not run.attempts.exists())


def list_gpus(count: int, visible: str | None) -> tuple[int | str, ...]:
    """The GPUs of the job: those that Slurm shows it, by whatever name, else by their numbers."""
    named = [name for name in (visible or "").split(",") if name and name != "NoDevFiles"]
    return tuple(named[:count]) if named else tuple(range(count))


def claim_folder(submission: Path, index: int) -> Path:
    """Make the folder of this launch of an element: submitit's, whose files are named by process numbers."""
    number = newest_launch(submission, index) + 1
    while True:
        try:
            folder = submission / f"pack_{index}.{number}"
            folder.mkdir(mode=0o700)
            return folder
        except FileExistsError:
            number += 1


def newest_launch(submission: Path, index: int) -> int:
    """The number of the newest launch of an element, 0 when there was none."""
    return max((numbers_of(Path(name))[1] for name in os.listdir(submission) if _is_of(name, index)), default=0)


def numbers_of(folder: Path) -> tuple[int, int]:
    """(element, launch) of the folder of a launch."""
    index, number = folder.name.removeprefix("pack_").split(".")
    return int(index), int(number)


def _is_of(name: str, index: int) -> bool:
    return re.fullmatch(rf"pack_{index}\.\d+", name) is not None
