"""What submitit pickles: which trial; and how a process of its job ends.

Kept light: unpickling happens inside the start-up window, so torch and the trainer are imported when called.
"""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import psutil
import submitit

from runner.code_snapshot import launcher_of
from runner.evidence import mark
from runner.launcher import INSIDE
from runner.masking import format_error
from runner.ownership import is_ours
from runner.processes import EXIT_TERMINATED, EXIT_TRY_AGAIN, age_seconds, die_with
from runner.rundir import RunDir

if TYPE_CHECKING:
    from runner.preemption import Preemption, Verdict
    from runner.rendezvous import Place

EXIT_FAILED = 1
WAIT_FOR_THE_END_SECONDS = 300
PACK = "RUNNER_PACK"
"""Variable of ranks whose job holds several trials: the launch of the job, and the process that supervises them."""

NO_MORE_TIMEOUTS = 1_000_000
"""submitit's own countdown of time-outs must never end a run; budgets are in runner.requeue."""


def python_command(code: Path | None = None, container: str | None = None, python: str | None = None) -> str:
    """How a job starts python, for a shell: with the signals of a preemption blocked until somebody listens.

    `code` is the folder of a snapshot to run; else what is imported here. `container` is a command that starts the
    command after it in a container, and `python` the one to start there, if not this one.
    """
    start = f"{shlex.quote(sys.executable)} -S -E {shlex.quote(str(launcher_of(code)))}"
    if container is None:
        return start
    return f"{start} {INSIDE} {container} {shlex.quote(python or sys.executable)}"


@dataclass(frozen=True)
class TrainJob:
    """A trial as a job: nothing but its folder, since a requeue by Slurm reads the pickle of the submission."""

    folder: str
    stop_after: int | None = None
    """Ends the trial early, for rehearsals."""

    def __call__(self) -> None:
        run = RunDir(Path(self.folder).absolute())
        if run.result.exists() or run.failure.exists() or run.cancelled.exists():
            return
        from runner.provenance import enter_folder
        from runner.rank import run_rank
        from runner.watchdog import Limits

        enter_folder(run)
        place = place_in_job(submitit.JobEnvironment())
        # What this launch prints begins here: the file may hold what an earlier launch of the job printed.
        print(mark(place.launch), file=sys.stderr, flush=True)
        if place.supervisor is not None:
            die_with(os.getppid())
        try:
            outcome, preemption = run_rank(run, place, stop_after=self.stop_after, limits=Limits())
        except Exception as error:
            # Not further: submitit would pickle and print the message, with the secrets that may be in it.
            print(format_error(error), file=sys.stderr, flush=True)
            sys.exit(EXIT_FAILED)
        if outcome.verdict:
            leave(outcome.verdict, place, preemption)

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Called by submitit on rank 0 when we requeue: the state is on disk already, so only the folder goes along."""
        return submitit.helpers.DelayedSubmission(self)


@dataclass(frozen=True)
class ArrayJob:
    """All elements of an array: each trains the trial that the manifest has in its place, if it is still its own.

    A trial may have been submitted anew from where nobody could cancel this job.
    """

    manifest: str
    stop_after: int | None = None

    def __call__(self) -> None:
        index = int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))
        folder, submission = Path(self.manifest).read_text().splitlines()[index], Path(self.manifest).parent
        if is_ours(RunDir(Path(folder)), submission):
            TrainJob(folder, self.stop_after)()

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """As that of a TrainJob."""
        return submitit.helpers.DelayedSubmission(self)


def place_in_job(environment: Any) -> "Place":
    """This process among the ranks of a submitit job."""
    from runner.rendezvous import Place

    hosts = environment.hostnames
    job_id, launch, supervisor = environment.job_id, launch_of(environment), find_queue()
    if pack := os.environ.get(PACK):
        around, pid = pack.split()
        job_id, launch, supervisor = around.partition(".")[0], f"{around}.{job_id}", int(pid)
        # As Slurm calls it, which the machine itself need not.
        hosts = [os.environ.get("SLURMD_NODENAME", hosts[0])]
    return Place(
        rank=environment.global_rank,
        world=environment.num_tasks,
        local_rank=environment.local_rank,
        job_id=job_id,
        launch=launch,
        address=hosts[0],
        nodes=tuple(hosts[rank * len(hosts) // environment.num_tasks] for rank in range(environment.num_tasks)),
        one_host=len(hosts) == 1 or all(host.startswith("127.") for host in hosts),
        launched=find_start(),
        supervisor=supervisor,
    )


def launch_of(environment: Any) -> str:
    """The name of this launch of a submitit job: another one each time that Slurm starts it."""
    return f"{environment.job_id}.{os.environ.get('SLURM_RESTART_COUNT', '0')}"


def find_start() -> float:
    """When this launch began, in unix seconds: by Slurm where the job is of one trial, else when this process did.

    submitit's local controller lives on from one launch to the next, so its age says nothing.
    """
    told = "" if PACK in os.environ else os.environ.get("SLURM_JOB_START_TIME", "")
    return float(told) if told.isdigit() else time.time() - age_seconds(psutil.Process())


def find_queue() -> int | None:
    """The local queue of this trial, if it is of one: it leads the session of all its processes."""
    with contextlib.suppress(psutil.Error):
        leader = psutil.Process(os.getsid(0))
        if "runner.local_queue" in leader.cmdline():
            return leader.pid
    return None


def leave(verdict: "Verdict", place: "Place", preemption: "Preemption") -> NoReturn:
    """End this process in the order that keeps the job alive: one requeue, by rank 0, before anybody fails."""
    from runner.preemption import Verdict

    if verdict in (Verdict.SAVE, Verdict.LEAVE):
        sys.exit(EXIT_TERMINATED)
    if PACK in os.environ:
        # Other trials of the job may still be saving; who supervises them requeues it once for all.
        sys.exit(EXIT_TRY_AGAIN)
    if place.rank == 0:
        requeue(preemption.previous_usr2)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if "SLURM_JOB_ID" in os.environ:
        # The requeue ends us. Exiting 0 would read as COMPLETED, exiting non-zero now would kill rank 0.
        time.sleep(WAIT_FOR_THE_END_SECONDS)
    sys.exit(EXIT_TRY_AGAIN)


def requeue(handler: Any) -> NoReturn:
    """Hand over to submitit's own handler of USR2: it calls checkpoint(), rewrites the pickle, requeues, and exits."""
    assert callable(handler), "inside a submitit job its handler is installed before ours"
    paths = submitit.JobEnvironment().paths
    # A kill in the middle of an earlier dump leaves this, and submitit asserts that it is absent.
    paths.submitted_pickle.with_suffix(".pkl.save_tmp").unlink(missing_ok=True)
    try:
        handler(signal.SIGUSR2, None)
    except (subprocess.SubprocessError, OSError) as error:
        print(f"runner: requeue failed ({error}); the batch script tries again", flush=True)
    sys.exit(EXIT_TRY_AGAIN)
