"""On a real Slurm: killed ranks, dead nodes, cancelled jobs, torn submissions end as they should and no other way."""

import os
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import yaml

from runner import onebox
from runner import slurm as slurm_tools
from runner.evidence import read_crashes
from runner.files import read_json, read_rows
from runner.nodes import record_fault
from runner.onebox.daemon import pid
from runner.processes import is_running
from runner.rundir import RunDir, find_trials
from runner.watchdog import Limits
from tests.experiments import last_step, run_cli, write_experiment
from tests.slurm_cluster import (
    GONE_SECONDS,
    environment_of,
    own_cluster,
    skip_without_slurm,
    slurm_of_this_file,
    wait_for,
)
from tests.slurm_trials import (
    PATIENCE_SECONDS,
    causes,
    check_same,
    job_of,
    job_state,
    node_of,
    nodes_of,
    notify_into,
    preempt,
    ranks_of,
    resumed_steps,
    submit,
    wait_for_step,
    wait_until_done,
)

__all__ = ["slurm_of_this_file"]

CONTAINER = """#!/bin/sh
# Mounts of its own, in which nothing can reach Slurm; as images have it.
exec unshare --map-root-user --mount sh -c '
    for tool in scontrol squeue sacct sbatch scancel; do mount --bind /dev/null "$(command -v $tool)" || exit; done
    exec "$@"' inside "$@"
"""

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.ddp]


def test_a_rank_killed_takes_everything_of_its_attempt_along(slurm, profile, tmp_path, uninterrupted):
    told = notify_into(profile, tmp_path / "told")
    (run,) = submit(tmp_path, profile, "train.workers=1")
    wait_for_step(run, 120)
    ranks = ranks_of(run)
    family = ranks + [child for rank in ranks for child in rank.children(recursive=True)]
    assert len(family) >= 4, "each rank has a loader worker"
    ranks[1].send_signal(signal.SIGKILL)
    wait_for(
        lambda: [each for each in family if is_running(each.pid)],
        GONE_SECONDS,
        "all to go",
        until=lambda left: not left,
    )
    wait_until_done(run)
    assert causes(run) == ["killed", "done"]
    (end,) = [row for row in run.attempt_rows() if row.get("cause") == "killed"]
    assert end["rank"] == 1 and end["node"] is None and "rank 1 ended without a word" in end["error"]
    assert [crash["because_of_rank"] for crash in read_crashes(run, 1)] == [1] * len(read_crashes(run, 1))
    shown = run_cli("show", run.trial, "--root", tmp_path / "runs").stdout
    assert "because of rank 1" in " ".join(shown.split())
    assert resumed_steps(run)[1] >= 100, "from the last periodic checkpoint"
    check_same(run, uninterrupted)
    wait_for(told, 60, "word of it", until=lambda lines: lines == ["trial done done", "sweep done 1 done"])


def test_crashes_wait_before_they_come_back_and_stay_away_from_bad_nodes(slurm, profile, tmp_path):
    """Twice killed at the same place: the second requeue waits a minute, off a node that broke two other trials."""

    def break_two_trials(node: str) -> None:
        for name in ("a", "b"):
            record_fault(RunDir(tmp_path / "runs" / "other" / name), "onebox", node, "node failure", "x")

    known, later = slurm.nodes[-2:]
    break_two_trials(known)
    (run,) = submit(tmp_path, profile, checkpoint={"every_steps": 100_000}, train={"steps": 100_000})
    assert slurm_tools.show_job(job_of(run))["ExcNodeList"] == known
    break_two_trials(later)
    for attempt in (1, 2):
        wait_for(lambda: len(resumed_steps(run)), PATIENCE_SECONDS, "an attempt", until=lambda n, of=attempt: n == of)
        wait_for(lambda: ranks_of(run), PATIENCE_SECONDS, "its ranks", until=lambda ranks: len(ranks) == 2)
        ranks_of(run)[1].send_signal(signal.SIGKILL)
        wait_for(
            lambda: causes(run),
            PATIENCE_SECONDS,
            "its end",
            until=lambda found, of=attempt: len(found) >= of and found[of - 1],
        )
    changed = {f"{known},{later}", f"127.0.0.[{known[8:]}-{later[8:]}]"}
    job = wait_for(
        lambda: slurm_tools.show_job(job_of(run)), 60, "the change", lambda job: job["ExcNodeList"] in changed
    )
    job = wait_for(lambda: slurm_tools.show_job(job_of(run)), 60, "the end", lambda job: job["JobState"] == "PENDING")
    ends = [row for row in run.attempt_rows() if row["event"] == "end"]
    assert [row["delay_seconds"] for row in ends] == [0, 60] and [row["rank"] for row in ends] == [1, 1]
    assert int(job["StartTime"]) >= ends[1]["time"] + 55


def test_death_of_one_of_two_nodes(profile, tmp_path, uninterrupted):
    skip_without_slurm()
    # One (fake) GPU on each node for the trial, so its two ranks are on two nodes; the third is the spare.
    profile.write_text("{cluster: slurm, partition: low, time_minutes: 30, memory_gb: 1.5, gpus_per_node: 1}")
    with own_cluster(nodes=3, accounting=False) as cluster, environment_of(cluster):
        (run,) = submit(tmp_path, profile)
        wait_for_step(run, 120)
        assert slurm_tools.show_job(job_of(run))["NumNodes"] == "2"
        batch_host = slurm_tools.show_job(job_of(run))["BatchHost"]
        victim = next(node for node in cluster.nodes if node != batch_host and node in nodes_of(run))
        onebox.kill_node(cluster, victim, noticed=True)
        wait_until_done(run)
        assert causes(run) == ["node failure", "done"]
        (end,) = [row for row in run.attempt_rows() if row.get("cause") == "node failure"]
        assert end["node"] == victim
        (fault,) = read_rows(tmp_path / "runs" / ".nodes" / "onebox.jsonl")
        assert fault["node"] == victim and fault["trial"] == f"tiny/{run.trial}"
        assert victim not in nodes_of(run)
        assert resumed_steps(run)[1] >= 100, "from the last periodic checkpoint"
        check_same(run, uninterrupted)


def test_a_node_cut_off_whose_ranks_go_on(profile, tmp_path, uninterrupted):
    """Split brain: only slurmd died. Slurm starts the job again elsewhere, and two attempts live at once."""
    skip_without_slurm()
    with own_cluster(nodes=2, accounting=False, node_timeout_seconds=5) as cluster, environment_of(cluster):
        (run,) = submit(tmp_path, profile)
        wait_for_step(run, 60)
        node, old = node_of(run), ranks_of(run)
        number = pid(cluster, f"slurmd-{node}")
        assert number is not None
        psutil.Process(number).kill()
        wait_for_step(run, last_step(run) + 20)
        # Slurm takes longer to notice than this trial to end; a trial of days would go on meanwhile.
        for rank in old:
            rank.suspend()
        wait_for(
            lambda: resumed_steps(run), PATIENCE_SECONDS, "the second attempt", until=lambda steps: len(steps) == 2
        )
        for rank in old:
            rank.resume()
        resumed = time.time()
        assert not psutil.wait_procs(old, 15)[1], "they leave"
        left = read_json(run.crash(1, 0))
        assert left["cause"] == "superseded" and left["time"] - resumed < Limits().beat_seconds + 2
        wait_until_done(run)
        assert causes(run) == ["node failure", "done"] and slurm_tools.show_job(job_of(run))["Restarts"] == "1"
        assert {row["attempt"] for row in read_rows(run.metrics)} == {1, 2}
        assert node_of(run) != node
        check_same(run, uninterrupted)


def test_cancelled_stays_cancelled(slurm, profile, tmp_path):
    (run,) = submit(tmp_path, profile)
    wait_for_step(run, 40)
    done = run_cli("cancel", run.trial, "--yes", "--root", tmp_path / "runs")
    assert done.returncode == 0, done.stderr
    wait_for(lambda: job_state(run), 30, "the end", until=lambda state: state == "CANCELLED")
    wait_for(lambda: ranks_of(run), 20, "the ranks to be gone", until=lambda ranks: not ranks)
    done = run_cli("status", "tiny", "--json", "--root", tmp_path / "runs")
    assert '"state": "cancelled"' in done.stdout
    assert slurm_tools.show_job(job_of(run))["Restarts"] == "0"
    retried = run_cli("retry", run.trial, "--root", tmp_path / "runs")
    assert retried.returncode == 0, retried.stderr
    wait_until_done(run)
    assert resumed_steps(run)[1] >= 40, "a retry goes on from where the cancel saved"


def test_scancel_behind_our_back_stays_cancelled(slurm, profile, tmp_path):
    (run,) = submit(tmp_path, profile)
    wait_for_step(run, 40)
    subprocess.run(["scancel", job_of(run)], check=True)
    wait_for(lambda: job_state(run), 30, "the end", until=lambda state: state == "CANCELLED")
    wait_for(lambda: ranks_of(run), 20, "the ranks to be gone", until=lambda ranks: not ranks)
    assert job_state(run) == "CANCELLED" and slurm_tools.show_job(job_of(run))["Restarts"] == "0"
    assert not run.result.exists()


def test_a_users_error_is_not_tried_again(slurm, profile, tmp_path):
    told = notify_into(profile, tmp_path / "told")
    # A learning rate at which the loss overflows.
    (run,) = submit(tmp_path, profile, "optimizer.lr=1e30", "train.max_grad_norm=null")
    wait_for(run.failure.exists, PATIENCE_SECONDS, "failure.json")
    failure = run.failure.read_text()
    assert '"cause": "non-finite loss"' in failure and "the loss became" in failure
    wait_for(lambda: job_state(run), 30, "the end", until=lambda state: state == "FAILED")
    assert slurm_tools.show_job(job_of(run))["Restarts"] == "0"
    done = run_cli("status", "tiny", "--json", "--root", tmp_path / "runs")
    assert '"state": "failed"' in done.stdout
    assert told() == ["trial failed non-finite loss", "sweep failed 1 failed"]


SHORT = {"train": {"steps": 20}, "resources": {"ranks": 1}, "evaluate": {"probes": []}}


def hold_jobs(profile: Path) -> Path:
    """Have the jobs of a profile wait, before any python, until there is a file of this name."""
    gate = profile.with_name("gate")
    line = f"until [ -e {gate} ]; do sleep 0.1; done"
    profile.write_text(yaml.safe_dump({**yaml.safe_load(profile.read_text()), "setup": [line]}))
    return gate


@pytest.mark.parametrize("seeds", [[0], [0, 1]], ids=["one job", "an array"])
def test_a_submission_killed_behind_sbatch_goes_on_as_if_nothing_had_happened(
    slurm: onebox.Cluster, tmp_path: Path, profile: Path, seeds: list[int]
) -> None:
    """sbatch has taken the jobs, and nobody has written down their numbers."""
    tools = tmp_path / "tools"
    tools.mkdir()
    real = shutil.which("sbatch")
    lines = [
        'case "$*" in *--test-only*) exec "$real" "$@" ;; esac',
        f'"$real" "$@" | tee {tmp_path}/said',
        "kill -9 $PPID",
    ]
    (tools / "sbatch").write_text("\n".join(["#!/bin/sh", f"real={real}", *lines, ""]))
    (tools / "sbatch").chmod(0o755)
    gate = hold_jobs(profile)
    words = ["submit", write_experiment(tmp_path, sweep={"seeds": seeds}, **SHORT)]
    words += ["--on", profile, "--root", tmp_path / "runs"]
    killed = run_cli(*words, env=os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"})
    assert killed.returncode == -signal.SIGKILL
    runs = find_trials(tmp_path / "runs" / "tiny")
    number = (tmp_path / "said").read_text().strip()
    assert len(runs) == len(seeds) and not any(run.job_rows() for run in runs)
    again = run_cli(*words)
    assert again.returncode == 0 and again.stderr.count("of a submission that was cut off is its") == len(seeds)
    assert f"{len(seeds)} trial{'s' * (len(seeds) > 1)}, 0 to submit" in again.stdout
    assert [job_of(run).partition("_")[0] for run in runs] == [number] * len(seeds)
    gate.touch()
    for run in runs:
        wait_until_done(run)
        assert [row["event"] for row in run.attempt_rows()] == ["start", "end"]


def test_a_job_that_nobody_wrote_down_is_found_again(slurm: onebox.Cluster, tmp_path: Path, profile: Path) -> None:
    """Everything was there but the row in jobs.jsonl."""
    gate = hold_jobs(profile)
    (run,) = submit(tmp_path, profile, **SHORT)
    (row,) = run.job_rows()
    run.jobs.unlink()
    again = run_cli("submit", tmp_path / "tiny.yaml", "--on", profile, "--root", tmp_path / "runs")
    assert again.returncode == 0 and "1 trials, 0 to submit" in again.stdout.replace("1 trial,", "1 trials,")
    assert [found["job_id"] for found in run.job_rows()] == [row["job_id"]]
    gate.touch()
    wait_until_done(run)


@pytest.mark.nightly
def test_ranks_in_a_container_that_cannot_reach_slurm(slurm, profile, tmp_path, uninterrupted):
    """It saves on the signal and leaves; the batch script, which is outside, requeues it."""
    container = tmp_path / "in container"
    container.write_text(CONTAINER)
    container.chmod(0o700)
    command = shlex.join([str(container)])
    profile.write_text(yaml.safe_dump({**yaml.safe_load(profile.read_text()), "container": command}))
    (run,) = submit(tmp_path, profile)
    wait_for_step(run, 40)
    inside = Path(f"/proc/{ranks_of(run)[0].pid}/root")
    assert (inside / str(shutil.which("scontrol"))[1:]).read_bytes() == b""
    preempt(run)
    wait_until_done(run)
    assert causes(run) == ["preempted", "done"]
    ends = [row for row in run.attempt_rows() if row["event"] == "end"]
    assert resumed_steps(run)[1] == ends[0]["end_step"] >= 40, "no step lost"
    check_same(run, uninterrupted)
