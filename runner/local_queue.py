"""The queue of `cluster: local`: a detached process that runs at most `parallel` trials at a time on this machine.

Each trial is a job of submitit's LocalExecutor, so that the ranks, the requeue and the logs are those of a cluster.
It outlives the command that started it, as jobs on a cluster do, and ends when its last trial has.
"""

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import submitit

from runner.config import ResourcesConfig
from runner.job import NO_MORE_TIMEOUTS, TrainJob, python_command
from runner.profile import Profile, load_profile
from runner.requeue import judge
from runner.rundir import RunDir, read_json

POLL_SECONDS = 0.2
MANIFEST = "trials.txt"
"""The run folders of a submission, one a line, in the order of its array."""

MANIFEST_TIMEOUT_SECONDS = 60
MINUTES_PER_MONTH = 30 * 24 * 60


def start(submission: Path) -> psutil.Process:
    """Start the queue of a submission folder, detached from this terminal."""
    with (submission / "queue.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "runner.local_queue", str(submission)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    return psutil.Process(process.pid)


@dataclass
class Running:
    """A trial and its submitit job."""

    run: RunDir
    job: Any
    terminated: bool = False


def work_off(runs: list[RunDir], resources: ResourcesConfig, site: Profile, submission: Path) -> None:
    """Run the trials in order, `parallel` at a time, until each is done, failed or cancelled."""
    waiting, running = list(runs), list[Running]()
    while waiting or running:
        while waiting and len(running) < (site.parallel or 1):
            run = waiting.pop(0)
            if is_ours(run, submission) and not run.result.exists():
                job = _submit(run, resources, site, submission)
                print(f"{run.trial}: submitit job {job.job_id}", flush=True)
                running.append(Running(run, job))
        for entry in list(running):
            if not is_ours(entry.run, submission) and not entry.terminated:
                entry.job._process.terminate()  # the controller passes TERM on to its ranks
                entry.terminated = True
            if entry.job.done():
                running.remove(entry)
                decision = judge(
                    entry.run, f"{entry.job.job_id}.0", _exit_code(entry), "LOCAL", site.max_failures
                )
                print(
                    f"{entry.run.trial}: {decision.action}, {decision.cause}: {decision.reason}", flush=True
                )
                if decision.action == "requeue" and not entry.terminated:
                    waiting.insert(0, entry.run)
        time.sleep(POLL_SECONDS)


def is_ours(run: RunDir, submission: Path) -> bool:
    """Whether a trial is still this queue's: not cancelled, and not submitted anew since."""
    return not run.cancelled.exists() and run.job_rows()[-1]["submission"] == str(submission)


def _submit(run: RunDir, resources: ResourcesConfig, site: Profile, submission: Path) -> Any:
    executor = submitit.LocalExecutor(
        submission / "jobs", max_num_timeout=NO_MORE_TIMEOUTS, python=python_command()
    )
    executor.update_parameters(
        tasks_per_node=resources.ranks,
        gpus_per_node=site.gpus_per_node or 0,
        # The local executor has no use for a time limit, and takes None for two minutes.
        timeout_min=MINUTES_PER_MONTH,
        signal_delay_s=60,
        setup=list(site.setup),
    )
    return executor.submit(TrainJob(str(run.path)))


def _exit_code(entry: Running) -> int:
    """The controller hides its tasks' exit codes; an attempt that left no word of its own was killed."""
    return 137 if not entry.run.result.exists() else 0


def main(submission: Path) -> None:
    manifest, deadline = submission / MANIFEST, time.monotonic() + MANIFEST_TIMEOUT_SECONDS
    while not manifest.exists():
        if time.monotonic() > deadline:
            sys.exit(f"{manifest} did not come: the submission was ended")
        time.sleep(POLL_SECONDS)
    runs = [RunDir(Path(line)) for line in manifest.read_text().splitlines()]
    resources = ResourcesConfig.model_validate(read_json(submission / "resources.json"))
    work_off(runs, resources, load_profile(str(submission / "profile.yaml")), submission)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
