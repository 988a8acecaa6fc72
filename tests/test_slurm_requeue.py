"""On a real Slurm: a job that is signalled saves, comes back, and ends bit for bit where the undisturbed one does."""

import subprocess
from pathlib import Path

import pytest

from runner import onebox
from runner import slurm as slurm_tools
from runner.files import read_rows
from runner.rundir import find_trials
from tests.experiments import fingerprint, run_cli
from tests.slurm_cluster import environment_of, own_cluster, skip_without_slurm, wait_for
from tests.slurm_trials import (
    PATIENCE_SECONDS,
    STEPS,
    causes,
    check_same,
    job_of,
    preempt,
    ranks_of,
    resumed_steps,
    submit,
    wait_for_step,
    wait_until_done,
)

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.ddp]


def test_preempted_by_a_job_of_higher_priority(slurm, profile, tmp_path, uninterrupted):
    # Without any periodic checkpoint: what it resumes from was saved on account of the signal.
    (run,) = submit(tmp_path, profile, checkpoint={"every_steps": 10 * STEPS})
    wait_for_step(run, 40)
    preempt(run)
    wait_until_done(run)
    assert causes(run) == ["preempted", "done"]
    ends = [row for row in run.attempt_rows() if row["event"] == "end"]
    assert resumed_steps(run)[1] == ends[0]["end_step"] >= 40, "no step lost"
    assert ends[0]["signal_to_saved_seconds"] < 8
    check_same(run, uninterrupted)


def test_preempted_by_term_alone(profile, tmp_path, uninterrupted):
    skip_without_slurm()
    with own_cluster(nodes=2, accounting=False, user_signal=False) as cluster, environment_of(cluster):
        (run,) = submit(tmp_path, profile)
        wait_for_step(run, 40)
        preempt(run)
        wait_until_done(run)
        assert causes(run) == ["preempted", "done"]
        assert resumed_steps(run)[1] >= 40
        check_same(run, uninterrupted)


def test_signalled_in_the_first_second(slurm, profile, tmp_path, uninterrupted):
    (run,) = submit(tmp_path, profile)
    wait_for(lambda: ranks_of(run), PATIENCE_SECONDS, "the first process of a rank")

    def signal_it() -> bool:
        job = slurm_tools.show_job(job_of(run))
        if job["Restarts"] != "0" or job["JobState"] != "RUNNING":
            return True
        # scancel signals steps: of one that is still being started it signals nobody.
        subprocess.run(["scancel", "--signal=USR2", job_of(run)], check=True)
        return False

    wait_for(signal_it, 60, "the job to leave")
    wait_until_done(run)
    assert int(slurm_tools.show_job(job_of(run))["Restarts"]) >= 1
    check_same(run, uninterrupted)


def test_requeued_by_scontrol(slurm, profile, tmp_path, uninterrupted):
    (run,) = submit(tmp_path, profile)
    wait_for_step(run, 40)
    slurm_tools.requeue(job_of(run))
    wait_until_done(run)
    assert causes(run) == ["terminated", "done"]
    assert resumed_steps(run)[1] >= 40
    check_same(run, uninterrupted)


def test_a_time_limit_does_not_end_a_run(slurm, profile, tmp_path):
    # Slurm looks at limits every half minute and warns up to a minute early: with this lead, at a look after 10 s.
    profile.write_text("{cluster: slurm, partition: low, time_minutes: 2, memory_gb: 1.5, signal_lead_seconds: 50}")
    (run,) = submit(tmp_path, profile, "train.steps=100000")
    wait_for(lambda: resumed_steps(run), PATIENCE_SECONDS, "an attempt that resumed", until=any)
    ends = [row for row in run.attempt_rows() if row["event"] == "end"]
    assert {(end["cause"], end["requeue"]) for end in ends} == {("time limit", True)}
    assert resumed_steps(run)[-1] == ends[-1]["end_step"], "no step lost"


@pytest.mark.nightly
def test_a_time_limit_that_no_signal_announces_loses_no_step(slurm, profile, tmp_path):
    profile.write_text("{cluster: slurm, partition: low, time_minutes: 1, memory_gb: 1.5, signal_lead_seconds: 0}")
    (run,) = submit(tmp_path, profile, "train.steps=100000")
    wait_for(lambda: resumed_steps(run), PATIENCE_SECONDS, "the second attempt", until=lambda steps: len(steps) == 2)
    end = run.attempt_rows()[1]
    assert end["cause"] == "time limit" and end["requeue"]
    assert resumed_steps(run)[1] == end["end_step"] > 0, "no step lost"
    (log,) = (
        path.read_text() for path in run.logs.iterdir() if "the time of this job is nearly up" in path.read_text()
    )
    assert "time limit: saved at step" in log


def test_an_array_with_one_preempted_leaves_the_other_five_alone(slurm, profile, tmp_path):
    seeds = {"seeds": [0, 1, 2, 3, 4, 5]}
    groups = {"resources": {"ranks": 1}, "evaluate": {"probes": []}}
    runs = submit(tmp_path, profile, sweep=seeds, **groups)
    assert len({job_of(run).split("_")[0] for run in runs}) == 1, "one array"
    victim = runs[2]
    wait_for_step(victim, 20)
    subprocess.run(["scancel", "--signal=USR2", job_of(victim)], check=True)
    for run in runs:
        wait_until_done(run)
    assert {run.trial: len(causes(run)) for run in runs} == {run.trial: 1 + (run is victim) for run in runs}
    assert int(slurm_tools.show_job(job_of(victim))["Restarts"]) == 1
    assert len({fingerprint(run) for run in runs}) == 6


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_all_four_systems_come_back_from_a_preemption(slurm: onebox.Cluster, tmp_path: Path, profile: Path) -> None:
    """The experiment that ships: a sweep over methods, encoders and data, each trial preempted once."""
    path = Path(__file__).parents[1] / "experiments" / "four_systems.yaml"
    done = run_cli("submit", path, "--on", profile, "--root", tmp_path / "runs", "--wait", timeout=560)
    assert done.returncode == 0, done.stdout + done.stderr
    runs = find_trials(tmp_path / "runs" / "four_systems")
    assert len(runs) == 4 and "4 done" in map(str.strip, done.stdout.splitlines())
    for run in runs:
        assert causes(run) == ["preempted", "done"], run.path
        steps = [row["step"] for row in read_rows(run.metrics)]
        assert steps == sorted(set(steps)) and steps[-1] == 60
