"""Trials on a real Slurm, and what a test wants to know of them."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from runner import slurm as slurm_tools
from runner.files import read_rows
from runner.goodput import read_accounts
from runner.rundir import RunDir, find_trials
from runner.status import read_statuses
from tests.experiments import fingerprint, last_step, only_trial, run_cli, write_experiment
from tests.slurm_cluster import sbatch, wait_for

STEPS, EVERY = 400, 10
GROUPS = {
    "train": {"steps": STEPS},
    "tracking": {"every_steps": EVERY},
    "checkpoint": {"every_steps": 50},
    "resources": {"ranks": 2},
    "evaluate": {"probes": ["knn"]},
}
PATIENCE_SECONDS = 150


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """The same trial on this machine without a scheduler: `runner debug --ranks 2`."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    done = run_cli("debug", write_experiment(folder, **GROUPS), "--ranks", 2, "--root", folder / "runs")
    assert done.returncode == 0, done.stderr
    return only_trial(folder / "runs" / ".debug")


@pytest.fixture
def profile(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "site.yaml"
    path.write_text("{cluster: slurm, partition: low, time_minutes: 30, memory_gb: 1.5, signal_lead_seconds: 60}")
    yield path
    # Nothing of this test may go on beside the next one.
    ids = [row["job_id"] for run in find_trials(tmp_path / "runs" / "tiny") for row in run.job_rows()]
    if ids and os.environ.get("SLURM_CONF"):
        slurm_tools.cancel(ids)


def notify_into(profile: Path, path: Path) -> Callable[[], list[str]]:
    """Have a profile tell of each end in a file; what was told so far, as a function."""
    command = f'echo "$RUNNER_EVENT $RUNNER_STATE $RUNNER_CAUSE" >> {path}'
    profile.write_text(yaml.safe_dump({**yaml.safe_load(profile.read_text()), "notify": command}))
    return lambda: path.read_text().splitlines() if path.exists() else []


def submit(tmp_path: Path, profile: Path, *overrides: str, **groups: dict) -> list[RunDir]:
    path = write_experiment(tmp_path, **{**GROUPS, **groups})
    done = run_cli("submit", path, *overrides, "--on", profile, "--root", tmp_path / "runs")
    assert done.returncode == 0, done.stderr
    return find_trials(tmp_path / "runs" / "tiny")


def job_of(run: RunDir) -> str:
    return str(run.job_rows()[-1]["job_id"])


def job_state(run: RunDir) -> str:
    return slurm_tools.show_job(job_of(run))["JobState"]


def wait_for_step(run: RunDir, step: int) -> None:
    wait_for(lambda: last_step(run), PATIENCE_SECONDS, f"step {step}", until=lambda found: found >= step)


def wait_until_done(run: RunDir) -> None:
    def look() -> str:
        if run.failure.exists():
            return run.failure.read_text()
        return "done" if run.result.exists() else f"{job_state(run)} {run.attempt_rows()[-1:]}"

    found = wait_for(look, PATIENCE_SECONDS, "the result", until=lambda state: state == "done" or "cause" in state[:20])
    assert found == "done", found


def check_same(run: RunDir, reference: RunDir) -> None:
    """Every step once, the same losses, the same final state; and no second of it all is unaccounted for."""
    rows, expected = read_rows(run.metrics), read_rows(reference.metrics)
    assert [row["step"] for row in rows] == [row["step"] for row in expected]
    assert [row["train/loss"] for row in rows] == [row["train/loss"] for row in expected]
    assert fingerprint(run) == fingerprint(reference)
    (account,) = read_accounts(read_statuses([run]), time.time())
    ledger, lived = account.ledger, run.result.stat().st_mtime - run.job_rows()[0]["time"]
    assert ledger.wall_seconds == pytest.approx(lived, rel=0.01)
    assert ledger.useful_steps == STEPS and 0 < ledger.ratio() < 1
    assert ledger.seconds["start_up"] > 0.5 < ledger.seconds["useful"], "a launch counts from the start of its job"


def node_of(run: RunDir) -> str:
    return slurm_tools.show_job(job_of(run))["NodeList"]


def nodes_of(run: RunDir) -> list[str]:
    words = ["scontrol", "show", "hostnames", node_of(run)]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()


def ranks_of(run: RunDir) -> list[psutil.Process]:
    """The rank processes of a trial's job, in rank order."""
    found = {}
    for process in psutil.process_iter():
        try:
            environment = process.environ()
            if (
                "submitit.core._submit" in process.cmdline()
                and process.name() != "pt_data_worker"
                and environment.get("SLURM_CONF") == os.environ["SLURM_CONF"]
            ):
                job = environment.get("SLURM_ARRAY_JOB_ID", environment["SLURM_JOB_ID"])
                if job == job_of(run).split("_")[0]:
                    found[int(environment["SLURM_PROCID"])] = process
        except (psutil.Error, KeyError):
            continue
    return [found[rank] for rank in sorted(found)]


def preempt(run: RunDir) -> str:
    return sbatch("-p", "high", "-w", node_of(run), "--exclusive", "--wrap", "sleep 3")


def causes(run: RunDir) -> list[str | None]:
    """How each attempt ended, None for one that could not say."""
    rows = run.attempt_rows()
    ends = {row["attempt"]: row["cause"] for row in rows if row["event"] == "end"}
    return [ends.get(row["attempt"]) for row in rows if row["event"] == "start"]


def resumed_steps(run: RunDir) -> list[int]:
    return [row["start_step"] for row in run.attempt_rows() if row["event"] == "start"]
