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
from runner.files import check_private, read_json, write_json
from runner.job import NO_MORE_TIMEOUTS, TrainJob, python_command
from runner.processes import EXIT_TERMINATED, Stragglers
from runner.profile import Profile, load_profile
from runner.requeue import judge
from runner.rundir import RunDir

POLL_SECONDS = 0.2
MANIFEST = "trials.txt"
"""The run folders of a submission, one a line, in the order of its array."""

LOOK_SECONDS = 1.0
"""Between two looks for cancelled ones among the trials that wait."""

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
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
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


@dataclass
class Running:
    """A trial and its submitit job."""

    run: RunDir
    job: Any
    gpus: tuple[int, ...] = ()
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
) -> None:
    """Run the trials in order, `parallel` at a time, until each is done, failed or cancelled.

    A trial that crashed waits for a while, and lets others pass. What still runs when this is interrupted is told to
    save and leave.
    """
    waiting, running = [Waiting(run) for run in runs], list[Running]()
    looked, next_look = time.monotonic(), 0.0
    told: list[subprocess.Popen[bytes]] = []

    def finish(run: RunDir) -> None:
        let_go(run, submission)
        if site.notify:
            told.append(tell(submission, runs.index(run)))

    try:
        while waiting or running:
            while len(running) < site.parallel and (chosen := choose(waiting, clock())) is not None:
                waiting.remove(chosen)
                run = chosen.run
                if is_ours(run, submission) and not run.result.exists():
                    gpus = choose_gpus(site.gpus_per_node or 0, resources.ranks, running)
                    job = _submit(run, resources, site, gpus, submission)
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
                if not is_ours(entry.run, submission) and not entry.terminated:
                    entry.terminated = terminate(entry)
                if entry.job.done():
                    running.remove(entry)
                    decision = _judge(entry, site.max_failures, submission / "jobs")
                    if decision.action == "requeue" and not entry.terminated:
                        waiting.insert(0, Waiting(entry.run, clock() + decision.delay_seconds))
                    else:
                        finish(entry.run)
            if time.monotonic() - looked >= LOOK_SECONDS:
                for each in [each for each in waiting if each.run.cancelled.exists()]:
                    waiting.remove(each)
                    finish(each.run)
                looked = time.monotonic()
            sleep(POLL_SECONDS)
    finally:
        for entry in running:
            terminate(entry)
        psutil.wait_procs([psutil.Process(entry.job._process.pid) for entry in running], LEAVE_SECONDS)
        for process in told:
            process.wait()


def tell(submission: Path, index: int) -> "subprocess.Popen[bytes]":
    """Tell of a trial that is over by the profile's command, beside the queue; see runner.notify, which is bounded."""
    command = [sys.executable, "-m", "runner.notify", str(submission), str(index)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL)


def choose(waiting: list[Waiting], now: float) -> Waiting | None:
    """The first trial that need not wait any more."""
    return next((entry for entry in waiting if entry.ready <= now), None)


def choose_gpus(count: int, ranks: int, running: list[Running]) -> tuple[int, ...]:
    """The GPUs of the next trial, one for each rank as far as there are so many: those that the fewest trials use."""
    uses = Counter(gpu for entry in running for gpu in entry.gpus)
    return tuple(sorted(range(count), key=lambda gpu: uses[gpu])[:ranks])


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


def is_ours(run: RunDir, submission: Path) -> bool:
    """Whether a trial is still this queue's: not cancelled, and not submitted anew since."""
    return not run.cancelled.exists() and run.job_rows()[-1]["submission"] == str(submission)


def let_go(run: RunDir, submission: Path) -> None:
    """Leave word that this queue will not touch a cancelled trial any more, however long it goes on with others."""
    with contextlib.suppress(ValueError):
        cancelled = read_json(run.cancelled)
        if cancelled is not None and run.job_rows()[-1]["submission"] == str(submission):
            write_json(run.cancelled, {**cancelled, "let_go": str(submission)})


def _submit(run: RunDir, resources: ResourcesConfig, site: Profile, gpus: tuple[int, ...], submission: Path) -> Any:
    check_own_code()
    executor = submitit.LocalExecutor(submission / "jobs", max_num_timeout=NO_MORE_TIMEOUTS, python=python_command())
    executor.update_parameters(
        tasks_per_node=resources.ranks,
        gpus_per_node=len(gpus),
        visible_gpus=gpus,
        # The local executor has no use for a time limit, and takes None for two minutes.
        timeout_min=MINUTES_PER_MONTH,
        signal_delay_s=60,
        setup=list(site.setup),
    )
    return executor.submit(TrainJob(str(run.path)))


def _judge(entry: Running, max_failures: int, logs: Path) -> Decision:
    """Decide about a trial whose processes have ended."""
    # The controller hides its tasks' exit codes; an attempt that left no word of its own was killed.
    exit_code = 137 if not entry.run.result.exists() else 0
    decision = judge(entry.run, f"{entry.job.job_id}.0", exit_code, "LOCAL", max_failures, logs)
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
    runs = [RunDir(Path(line)) for line in manifest.read_text().splitlines()]
    resources = ResourcesConfig.model_validate(read_json(submission / "resources.json"))
    try:
        work_off(runs, resources, load_profile(str(submission / "profile.yaml")), submission)
    except ConfigError as error:
        sys.exit(f"runner: {error}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
