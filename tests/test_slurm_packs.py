"""On a real Slurm: trials that share a job are each what they would be alone, whatever happens to one or to all."""

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from runner import onebox
from runner import slurm as slurm_tools
from runner.cli import run as cli
from runner.files import read_json, read_rows
from runner.onebox.daemon import pid
from runner.rundir import RunDir
from tests.experiments import fingerprint, last_step, prepare_run, run_cli, train_here
from tests.slurm_cluster import environment_of, own_cluster, skip_without_slurm, slurm_of_this_file, wait_for
from tests.slurm_trials import (
    PATIENCE_SECONDS,
    causes,
    job_of,
    job_state,
    node_of,
    preempt,
    resumed_steps,
    submit,
    wait_for_step,
    wait_until_done,
)

__all__ = ["slurm_of_this_file"]

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

STEPS = 400
GROUPS = {
    "train": {"steps": STEPS},
    "checkpoint": {"every_steps": 50},
    "resources": {"ranks": 1},
    "evaluate": {"probes": []},
}
ENDLESS = {**GROUPS, "train": {"steps": 1_000_000}}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[RunDir]:
    """The trials of two seeds, each trained by itself in this process."""
    runs = []
    for seed in (0, 1):
        groups = {**GROUPS, "train": {"steps": STEPS, "seed": seed}, "tracking": {"every_steps": 10}}
        runs.append(prepare_run(tmp_path_factory.mktemp("alone"), **groups))
        train_here(runs[-1])
    return runs


@pytest.fixture
def site(profile: Path) -> Path:
    """Two trials in a job."""
    return write_profile(profile, trials_per_job=2)


def write_profile(path: Path, **keys: object) -> Path:
    facts = {"cluster": "slurm", "partition": "low", "time_minutes": 30, "memory_gb": 3, "signal_lead_seconds": 60}
    path.write_text(yaml.safe_dump(facts | keys))
    return path


def submit_seeds(tmp_path: Path, site: Path, count: int = 2, **groups: dict) -> list[RunDir]:
    """Trials of so many seeds, in their order."""
    runs = submit(tmp_path, site, sweep={"seeds": list(range(count))}, **{**GROUPS, **groups})
    return sorted(runs, key=lambda run: yaml.safe_load(run.overrides.read_text())["train.seed"])


def rank_of(run: RunDir) -> psutil.Process:
    """The process of rank 0 of the last attempt."""
    return psutil.Process([row for row in run.attempt_rows() if row["event"] == "start"][-1]["pid"])


def supervisor_of(run: RunDir) -> psutil.Process:
    return psutil.Process(int(rank_of(run).environ()["RUNNER_PACK"].split()[1]))


def wait_for_attempt(run: RunDir, number: int) -> None:
    wait_for(
        lambda: len(resumed_steps(run)), PATIENCE_SECONDS, f"attempt {number}", until=lambda found: found >= number
    )


def check_alone(runs: list[RunDir], alone: list[RunDir]) -> None:
    """Done, each step once, with the losses and the final state of the trials that ran by themselves."""
    for run, reference in zip(runs, alone, strict=True):
        wait_until_done(run)
        rows, expected = (
            [(row["step"], row["train/loss"]) for row in read_rows(each.metrics)] for each in (run, reference)
        )
        assert rows == expected
        assert fingerprint(run) == fingerprint(reference)


def states(runs: list[RunDir], root: str, capfd: pytest.CaptureFixture[str]) -> list[str]:
    """As `runner status` tells them; all trials are of one job."""
    capfd.readouterr()
    assert cli(["status", "tiny", "--json", "--root", root]) == 0
    found = {row["trial"]: row for row in json.loads(capfd.readouterr().out)}
    assert {found[run.trial]["job_id"] for run in runs} == {job_of(run) for run in runs}
    return [found[run.trial]["state"] for run in runs]


@pytest.mark.nightly
def test_a_cancel_a_preemption_of_the_job_and_a_kill_of_one_rank(slurm, profile, tmp_path, alone, capfd):
    """Three trials in a job, two at a time; the third is cancelled before its turn comes."""
    site, root = write_profile(profile, trials_per_job=3, trials_at_once=2), str(tmp_path / "runs")
    first, second, third = runs = submit_seeds(tmp_path, site, 3)
    job = job_of(first)
    assert {job_of(run) for run in runs} == {job}, "one job"
    assert cli(["cancel", third.trial, "--yes", "--root", root]) == 0
    for run in (first, second):
        wait_for_step(run, 20)
    preempt(first)
    assert states(runs, root, capfd)[2] == "cancelled" and "let_go" in third.cancelled.read_text()
    wait_for_attempt(first, 2)
    rank_of(first).kill()
    check_alone([first, second], alone)
    assert causes(first) == ["preempted", "killed", "done"] and causes(second) == ["preempted", "done"]
    for run in (first, second):
        end = run.attempt_rows()[1]
        assert resumed_steps(run)[1] == end["end_step"] >= 20, "no step lost"
        assert end["requeue"] and end["signal_to_saved_seconds"] < 8
        assert {row["job_id"] for row in run.attempt_rows() if row["event"] == "start"} == {job}
    assert slurm_tools.show_job(job)["Restarts"] == "1"
    wait_for(lambda: job_state(first), 30, "the end", until=lambda state: state == "COMPLETED")
    assert states(runs, root, capfd) == ["done", "done", "cancelled"] and not causes(third)
    assert cli(["logs", first.trial, "--root", root]) == 0
    assert f"tiny/{first.trial} attempt 3 rank 0 of 1" in capfd.readouterr().out


@pytest.mark.nightly
def test_one_is_cancelled_the_next_begins_and_a_scancel_ends_both(slurm, profile, tmp_path, capfd):
    site = write_profile(profile, trials_per_job=2, trials_at_once=1)
    first, second = runs = submit_seeds(tmp_path, site, **ENDLESS)
    job, root = job_of(first), str(tmp_path / "runs")
    wait_for_step(first, 10)
    assert states(runs, root, capfd) == ["running", "pending"], "the second waits for its turn"
    assert cli(["cancel", first.trial, "--yes", "--root", root]) == 0
    wait_for_step(second, 10)
    assert states(runs, root, capfd) == ["cancelled", "running"] and job_state(second) == "RUNNING"
    assert causes(first) == ["cancelled"] and first.attempt_rows()[1]["end_step"] >= 10
    assert cli(["logs", second.trial, "--root", root]) == 0
    assert f"tiny/{second.trial} attempt 1 rank 0 of 1" in capfd.readouterr().out
    assert cli(["show", second.trial, "--json", "--root", root]) == 0
    assert [attempt["job_id"] for attempt in json.loads(capfd.readouterr().out)["history"]] == [job]
    subprocess.run(["scancel", job], check=True)
    wait_for(lambda: job_state(second), 30, "the end", until=lambda state: state == "CANCELLED")
    assert states(runs, root, capfd) == ["cancelled", "cancelled"]
    assert slurm_tools.show_job(job)["Restarts"] == "0" and causes(second) == ["terminated"]


@pytest.mark.nightly
def test_one_is_cancelled_and_retried_beside_the_others(slurm, profile, tmp_path, capfd):
    """Three in a job, two at a time: one is cancelled, which makes room for the third, and is retried beside them."""
    site = write_profile(profile, trials_per_job=3, trials_at_once=2)
    first, second, third = runs = submit_seeds(tmp_path, site, 3, **ENDLESS)
    job, root = job_of(first), str(tmp_path / "runs")
    for run in (first, second):
        wait_for_step(run, 10)
    assert states(runs, root, capfd) == ["running", "running", "pending"]

    assert run_cli("cancel", first.trial, "--yes", "--root", tmp_path / "runs").returncode == 0
    wait_for_step(third, 10)
    assert causes(first) == ["cancelled"] and causes(second) == [None] == causes(third), "the others go on"
    assert job_state(second) == "RUNNING"
    again = run_cli("retry", first.trial, "--root", tmp_path / "runs")
    assert again.returncode == 0, again.stderr
    wait_for_attempt(first, 2)
    assert job_of(first) != job and resumed_steps(first)[1] == first.attempt_rows()[1]["end_step"] >= 10
    shown = json.loads(run_cli("show", second.trial, "--json", "--root", tmp_path / "runs").stdout)
    assert [attempt["job_id"] for attempt in shown["history"]] == [job]
    log = run_cli("logs", third.trial, "--root", tmp_path / "runs").stdout
    assert f"tiny/{third.trial} attempt 1 rank 0 of 1" in log and second.trial not in log

    subprocess.run(["scancel", job], check=True)
    wait_for(lambda: job_state(second), 30, "the end", until=lambda state: state == "CANCELLED")
    assert states(runs, root, capfd) == ["running", "cancelled", "cancelled"]
    assert slurm_tools.show_job(job)["Restarts"] == "0"
    assert run_cli("cancel", "tiny", "--yes", "--root", tmp_path / "runs").returncode == 0
    wait_for(lambda: job_state(first), 30, "the end", until=lambda state: state == "CANCELLED")


@pytest.mark.nightly
def test_preempted_by_term_alone(profile, tmp_path, alone):
    skip_without_slurm()
    with own_cluster(nodes=2, accounting=False, user_signal=False) as cluster, environment_of(cluster):
        runs = submit_seeds(tmp_path, write_profile(profile, trials_per_job=2))
        for run in runs:
            wait_for_step(run, 20)
        preempt(runs[0])
        check_alone(runs, alone)
        assert [causes(run) for run in runs] == [["preempted", "done"]] * 2
        assert all(resumed_steps(run)[1] == run.attempt_rows()[1]["end_step"] >= 20 for run in runs)


@pytest.mark.nightly
def test_signals_that_reach_only_the_supervisor(slurm, site, tmp_path, alone):
    """As where a site tracks processes by cgroups: Slurm signals the task and none of its children."""
    runs = submit_seeds(tmp_path, site)
    for run in runs:
        wait_for_step(run, 20)
    supervisor_of(runs[0]).send_signal(signal.SIGUSR2)
    check_alone(runs, alone)
    assert all(len(causes(run)) == 2 and resumed_steps(run)[1] >= 20 for run in runs)
    assert slurm_tools.show_job(job_of(runs[0]))["Restarts"] == "1"


@pytest.mark.nightly
@pytest.mark.parametrize("lead", [50, 0], ids=["announced", "by their own clocks"])
def test_a_time_limit(slurm, profile, tmp_path, lead):
    minutes = 2 if lead else 1
    site = write_profile(profile, trials_per_job=2, time_minutes=minutes, signal_lead_seconds=lead)
    runs = submit_seeds(tmp_path, site, **ENDLESS)
    for run in runs:
        wait_for_attempt(run, 2)
        end = run.attempt_rows()[1]
        assert end["requeue"] and resumed_steps(run)[1] == end["end_step"] > 0, "no step lost"
    assert "time limit" in {run.attempt_rows()[1]["cause"] for run in runs}
    assert slurm_tools.show_job(job_of(runs[0]))["Restarts"] == "1"


@pytest.mark.nightly
def test_requeued_by_scontrol(slurm, site, tmp_path, alone):
    runs = submit_seeds(tmp_path, site)
    for run in runs:
        wait_for_step(run, 20)
    slurm_tools.requeue(job_of(runs[0]))
    check_alone(runs, alone)
    assert [causes(run) for run in runs] == [["terminated", "done"]] * 2
    assert all(resumed_steps(run)[1] >= 20 for run in runs)


@pytest.mark.nightly
def test_the_supervisor_is_killed(slurm, site, tmp_path, alone):
    runs = submit_seeds(tmp_path, site)
    for run in runs:
        wait_for_step(run, 20)
    supervisor_of(runs[0]).kill()
    check_alone(runs, alone)
    assert [causes(run) for run in runs] == [["terminated", "done"]] * 2, "the ranks saw it, and saved"
    assert all(resumed_steps(run)[1] >= 20 for run in runs)
    assert slurm_tools.show_job(job_of(runs[0]))["Restarts"] == "1"


@pytest.mark.nightly
@pytest.mark.ddp
def test_a_killed_rank_of_two_leaves_the_other_trial_alone(slurm, site, tmp_path):
    groups = {"resources": {"ranks": 2}, "train": {"steps": 200}}
    first, second = runs = submit_seeds(tmp_path, site, **groups)
    for run in runs:
        wait_for_step(run, 60)
    launch = first.attempt_rows()[0]["launch"]
    (controller,) = rank_of(first).parents()[:1]
    ranks = {each.environ()["SUBMITIT_LOCAL_GLOBALID"]: each for each in controller.children()}
    assert launch.endswith(f".{controller.pid}")
    ranks["1"].kill()
    for run in runs:
        wait_until_done(run)
    assert causes(first) == ["killed", "done"] and causes(second) == ["done"]
    assert resumed_steps(first)[1] >= 50


@pytest.mark.nightly
def test_death_of_the_node(profile, tmp_path, alone):
    skip_without_slurm()
    with own_cluster(nodes=2, accounting=False) as cluster, environment_of(cluster):
        runs = submit_seeds(tmp_path, write_profile(profile, trials_per_job=2))
        for run in runs:
            wait_for_step(run, 60)
        node = node_of(runs[0])
        onebox.kill_node(cluster, node, noticed=True)
        check_alone(runs, alone)
        assert [causes(run) for run in runs] == [["node failure", "done"]] * 2
        assert all(resumed_steps(run)[1] >= 50 for run in runs) and node_of(runs[0]) != node


@pytest.mark.nightly
def test_a_node_cut_off_whose_supervisor_goes_on(profile, tmp_path, alone):
    """Split brain, with a trial that waits for its turn: the old supervisor must not start it beside the new one."""
    skip_without_slurm()
    with own_cluster(nodes=2, accounting=False, node_timeout_seconds=5) as cluster, environment_of(cluster):
        site = write_profile(profile, trials_per_job=2, trials_at_once=1)
        first, second = runs = submit_seeds(tmp_path, site)
        wait_for_step(first, 60)
        node, old = node_of(first), [supervisor_of(first), rank_of(first)]
        number = pid(cluster, f"slurmd-{node}")
        assert number is not None
        psutil.Process(number).kill()
        # Slurm takes longer to notice than these trials to end; trials of days would go on meanwhile.
        for process in old:
            process.suspend()
        wait_for_attempt(first, 2)
        for process in old:
            process.resume()
        assert not psutil.wait_procs(old, 20)[1], "they leave"
        assert read_json(first.crash(1, 0))["cause"] == "superseded"
        check_alone(runs, alone)
        assert causes(first) == ["node failure", "done"] and causes(second) == ["done"]
        assert node_of(first) != node


@pytest.fixture
def endless(slurm: onebox.Cluster, site: Path, tmp_path: Path) -> Iterator[list[RunDir]]:
    """Two trials in a job that would go on for ever."""
    runs = submit_seeds(tmp_path, site, **ENDLESS)
    for run in runs:
        wait_for_step(run, 10)
    yield runs
    slurm_tools.cancel([job_of(run) for run in runs])


@pytest.mark.nightly
def test_who_waits_after_a_crash_outlives_the_job(endless):
    """Twice killed in a row: the second back-off is a minute, and the job leaves in the middle of it."""
    first, second = endless
    for attempt in (1, 2):
        wait_for_attempt(first, attempt)
        wait_for(lambda: rank_of(first).is_running(), 30, "its rank")
        rank_of(first).kill()
        wait_for(lambda of=attempt: causes(first)[of - 1 : of], 30, "its end", until=lambda found: found == ["killed"])
    last = first.attempt_rows()[-1]
    assert last["delay_seconds"] == 60
    slurm_tools.requeue(job_of(first))
    wait_for_attempt(second, 2)
    assert len(resumed_steps(first)) == 2, "it still waits, in the new launch"
    wait_for_attempt(first, 3)
    assert time.time() - last["time"] >= 60 and len(resumed_steps(second)) == 2


@pytest.mark.nightly
def test_cancelling_all_ends_the_job(endless, tmp_path):
    first, second = endless
    assert run_cli("cancel", first.trial, "--yes", "--root", tmp_path / "runs").returncode == 0
    wait_for_step(second, last_step(second) + 20)
    assert run_cli("cancel", second.trial, "--yes", "--root", tmp_path / "runs").returncode == 0
    wait_for(lambda: job_state(first), 30, "the end", until=lambda state: state in ("CANCELLED", "COMPLETED"))
    assert [causes(run) for run in endless] == [["cancelled"]] * 2
    assert slurm_tools.show_job(job_of(first))["Restarts"] == "0"
