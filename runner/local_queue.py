"""The queue of `cluster: local`: a detached process that runs at most `parallel` trials at a time on this machine.

Each trial is a job of submitit's LocalExecutor, so that the ranks, the requeue and the logs are those of a cluster.
It outlives the command that started it, as jobs on a cluster do, and ends when its last trial has.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import submitit

from runner.code_snapshot import check_own_code, environment_with
from runner.config import ResourcesConfig
from runner.decision import Decision
from runner.errors import ConfigError
from runner.files import check_private, read_json
from runner.job import NO_MORE_TIMEOUTS, PACK, TrainJob, python_command
from runner.ownership import back_off_seconds, is_ours, is_over, let_go
from runner.processes import EXIT_TERMINATED, Stragglers
from runner.profile import Profile, load_profile
from runner.requeue import judge, note_node
from runner.rundir import RunDir
from runner.submission import MANIFEST, read_elements

POLL_SECONDS = 0.2
LOOK_SECONDS = 1.0
"""Between two looks for trials that were cancelled or submitted anew."""

MANIFEST_TIMEOUT_SECONDS = 60
MINUTES_PER_MONTH = 30 * 24 * 60
LEAVE_SECONDS = 60
"""How long a queue that is ended waits for its trials to save."""

CONTROLLER = "submitit.local._local"
"""What a process that holds the ranks of one trial has on its command line."""

TOGETHER_SECONDS, KILL_SECONDS = 3, 5
"""The ranks of a trial end within so many seconds of each other; whoever does not is told to, and killed after more."""


def start(submission: Path, code: Path | None = None) -> psutil.Process:
    """Start the queue of a submission folder, detached from this terminal.

    `code` is the folder of a snapshot, which it and its trials run; else what is imported here.
    """
    # In the shell of an allocation, the ranks would take Slurm's job for their own.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", PACK))}
    with (submission / "queue.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "runner.local_queue", str(submission)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment_with(code, environment),
            start_new_session=True,
        )
    return psutil.Process(process.pid)


class TimeUpError(Exception):
    """A trial saw that the time of the job that the queue is in is nearly up."""


@dataclass(frozen=True)
class Bench:
    """What a queue runs its trials on."""

    jobs: Path
    """Folder of submitit."""

    at_once: int
    """How many trials run at a time."""

    gpus: tuple[int | str, ...] = ()
    """As CUDA_VISIBLE_DEVICES has them."""

    setup: tuple[str, ...] = ()
    launch: str = ""
    """That of the job of a cluster which the queue is in; empty without one."""

    element: int | None = None
    """The place of that job in its array; None where each trial has a place of its own."""

    stop_after: int | None = None
    leave_seconds: Callable[[], float] = lambda: LEAVE_SECONDS
    """How long a queue that is ended waits for its trials to save; asked once they have been told to."""

    def launch_of(self, job_id: str) -> str:
        """The launch of a trial, as its ranks call it."""
        return f"{self.launch}.{job_id}" if self.launch else f"{job_id}.0"


@dataclass
class Running:
    """A trial and its submitit job."""

    run: RunDir
    job: Any
    gpus: tuple[int | str, ...] = ()
    terminated: bool = False
    stragglers: Stragglers = field(default_factory=lambda: Stragglers(TOGETHER_SECONDS, KILL_SECONDS))


@dataclass(frozen=True)
class Waiting:
    """A trial that is to run, at once or when its back-off is over."""

    run: RunDir
    ready: float = 0.0


def work_off(
    runs: list[RunDir],
    resources: ResourcesConfig,
    site: Profile,
    submission: Path,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    bench: Bench | None = None,
) -> None:
    """Run the trials in order, so many at a time, until each is done, failed or cancelled.

    A trial that crashed waits for a while, and lets others pass. What still runs when this is interrupted, as by
    `sleep`, is told to save and leave. Without a bench they run on this machine, as the profile says.
    Raises: TimeUpError.
    """
    bench = bench or bench_here(site, submission)
    waiting = [Waiting(run, clock() + back_off_seconds(run, time.time())) for run in runs]
    running = list[Running]()
    looked, next_look = time.monotonic(), 0.0
    told: list[subprocess.Popen[bytes]] = []

    def finish(run: RunDir) -> None:
        let_go(run, submission)
        if site.notify:
            told.append(tell(submission, runs.index(run) if bench.element is None else bench.element))

    try:
        while waiting or running:
            while len(running) < bench.at_once and (chosen := choose(waiting, clock())) is not None:
                waiting.remove(chosen)
                run = chosen.run
                if is_ours(run, submission) and not is_over(run):
                    gpus = choose_gpus(bench.gpus, resources.ranks, running)
                    job = _submit(run, resources, gpus, bench)
                    print(f"{run.trial}: submitit job {job.job_id}", flush=True)
                    running.append(Running(run, job, gpus))
                else:
                    finish(run)
            if time.monotonic() >= next_look:
                next_look = time.monotonic() + 1
                for entry in running:
                    # submitit's controller waits for all of them, and one that is stopped never ends.
                    entry.stragglers.look(ranks_of(entry), partial(has_ended_well, entry.run))
            for entry in list(running):
                if entry.job.done():
                    running.remove(entry)
                    decision = _judge(entry, site.max_failures, bench)
                    if not entry.terminated and comes_back(decision, bench):
                        waiting.insert(0, Waiting(entry.run, clock() + decision.delay_seconds))
                        if bench.launch and decision.cause == "time limit":
                            raise TimeUpError
                    else:
                        finish(entry.run)
            if time.monotonic() - looked >= LOOK_SECONDS:
                # Of a file server that is away for a moment all that is asked again.
                with contextlib.suppress(OSError):
                    for entry in running:
                        if not entry.terminated and not is_ours(entry.run, submission):
                            entry.terminated = terminate(entry)
                    for each in [each for each in waiting if each.run.cancelled.exists()]:
                        waiting.remove(each)
                        finish(each.run)
                looked = time.monotonic()
            sleep(POLL_SECONDS)
    finally:
        for entry in running:
            terminate(entry)
        if running:
            psutil.wait_procs([psutil.Process(entry.job._process.pid) for entry in running], bench.leave_seconds())
        for process in told:
            process.wait()


def bench_here(site: Profile, submission: Path) -> Bench:
    """This machine, without a scheduler."""
    return Bench(submission / "jobs", site.parallel, tuple(range(site.gpus_per_node or 0)), tuple(site.setup))


def comes_back(decision: Decision, bench: Bench) -> bool:
    """Whether a trial whose processes have ended is started again."""
    # The newer attempt was of this job as well, started by a supervisor that had been given up and did not know yet.
    return decision.action == "requeue" or (bool(bench.launch) and decision.cause == "superseded")


def tell(submission: Path, index: int) -> "subprocess.Popen[bytes]":
    """Tell of trials that are over by the profile's command, beside the queue; see runner.notify, which is bounded."""
    command = [sys.executable, "-m", "runner.notify", str(submission), str(index)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL)


def choose(waiting: list[Waiting], now: float) -> Waiting | None:
    """The first trial that need not wait any more."""
    return next((entry for entry in waiting if entry.ready <= now), None)


def choose_gpus(gpus: tuple[int | str, ...], ranks: int, running: list[Running]) -> tuple[int | str, ...]:
    """The GPUs of the next trial, one for each rank as far as there are so many: those that the fewest trials use."""
    uses = Counter(gpu for entry in running for gpu in entry.gpus)
    return tuple(sorted(gpus, key=lambda gpu: uses[gpu])[:ranks])


def terminate(entry: Running) -> bool:
    """Send TERM to submitit's controller, which passes it on to its ranks; False while there is none yet.

    With lines of setup the job is a shell, which would die of the signal alone, and the controller its child.
    """
    found = controllers_of(entry)
    for controller in found:
        with contextlib.suppress(psutil.Error):
            controller.terminate()
    return bool(found)


def ranks_of(entry: Running) -> list[psutil.Process]:
    """The rank processes of a trial that live, without the loader workers, which are forks of them."""
    found: list[psutil.Process] = []
    for controller in controllers_of(entry):
        with contextlib.suppress(psutil.Error):
            found += [child for child in controller.children() if child.status() != psutil.STATUS_ZOMBIE]
    return found


def has_ended_well(run: RunDir) -> bool:
    """Whether the last attempt has said how it ended: it is done, or has saved and leaves."""
    return run.result.exists() or any(row["event"] == "end" for row in run.attempt_rows()[-1:])


def controllers_of(entry: Running) -> list[psutil.Process]:
    """submitit's process that holds the ranks: the job itself or, with lines of setup, the child of a shell."""
    found = []
    with contextlib.suppress(psutil.Error):
        job = psutil.Process(entry.job._process.pid)
        for process in [job, *job.children()]:
            if CONTROLLER in process.cmdline():
                found.append(process)
    return found


def _submit(run: RunDir, resources: ResourcesConfig, gpus: tuple[int | str, ...], bench: Bench) -> Any:
    check_own_code()
    executor = submitit.LocalExecutor(bench.jobs, max_num_timeout=NO_MORE_TIMEOUTS, python=python_command())
    executor.update_parameters(
        tasks_per_node=resources.ranks,
        gpus_per_node=len(gpus),
        # The local executor has no use for a time limit, and takes None for two minutes.
        timeout_min=MINUTES_PER_MONTH,
        signal_delay_s=60,
        setup=list(bench.setup),
    )
    # Past its check, which knows of numbers only: Slurm may name GPUs, and parts of them, by other words.
    executor.parameters["visible_gpus"] = gpus
    # Slurm may signal all processes of a job, and submitit's controller would die of this one.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        return executor.submit(TrainJob(str(run.path), bench.stop_after))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _judge(entry: Running, max_failures: int, bench: Bench) -> Decision:
    """Decide about a trial whose processes have ended."""
    # The controller hides its tasks' exit codes; an attempt that left no word of its own was killed.
    exit_code = 137 if not entry.run.result.exists() else 0
    launch = bench.launch_of(entry.job.job_id)
    decision = judge(entry.run, launch, exit_code, "LOCAL", max_failures, bench.jobs)
    note_node(entry.run, os.environ.get("SLURM_CLUSTER_NAME") if bench.launch else None, decision)
    wait = f", in {decision.delay_seconds} s" if decision.delay_seconds else ""
    print(f"{entry.run.trial}: {decision.action}{wait}, {decision.cause}: {decision.reason}", flush=True)
    return decision


def main(submission: Path) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_TERMINATED))
    try:
        check_private(submission, submission.parents[2])
    except ConfigError as error:
        sys.exit(f"runner: {error}")
    manifest, deadline = submission / MANIFEST, time.monotonic() + MANIFEST_TIMEOUT_SECONDS
    while not manifest.exists():
        if time.monotonic() > deadline:
            sys.exit(f"{manifest} did not come: the submission was ended")
        time.sleep(POLL_SECONDS)
    runs = [run for element in read_elements(manifest) for run in element]
    resources = ResourcesConfig.model_validate(read_json(submission / "resources.json"))
    try:
        work_off(runs, resources, load_profile(str(submission / "profile.yaml")), submission)
    except ConfigError as error:
        sys.exit(f"runner: {error}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
