"""Cancelling leaves word before it kills; retrying never starts a second job beside a living one."""

import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from runner import dispatch, shipment
from runner.cancel import cancel
from runner.errors import ConfigError, SubmissionError
from runner.experiment import load_trial
from runner.files import append_row, write_json
from runner.lock import locked
from runner.profile import load_profile
from runner.record import Record
from runner.retry import RetryPlan, plan_retry, retry, set_aside, wait_for_ending, without_lost
from runner.rundir import RunDir
from runner.slurm import squeue
from runner.status import Job, Row, read_statuses
from runner.submission import SubmissionDir
from tests.experiments import prepare_run
from tests.slurm_cluster import sbatch, wait_for
from tests.trials import SUBMITTED, local_job, make_trial, slurm_job, start

FAILURE = {"cause": "user code", "rank": 0, "error": "x"}


@pytest.fixture
def scancel(tmp_path, monkeypatch):
    """A scancel that writes its arguments to a file, and says which trials had their file by then."""
    folder = tmp_path / "bin"
    folder.mkdir()
    log = folder / "calls"
    (folder / "scancel").write_text(f'#!/bin/sh\necho "$@" >> {log}\nls -d {tmp_path}/exp/*/cancelled.json >> {log}\n')
    (folder / "scancel").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return log


def test_files_first_then_one_scancel_for_all(tmp_path, scancel):
    runs = [make_trial(tmp_path, f"t{i}", job=slurm_job(f"7_{i}")) for i in range(3)]
    runs.append(make_trial(tmp_path, "local", job=local_job(2**22 + 1)))
    runs.append(make_trial(tmp_path, "new"))
    finals = [
        make_trial(tmp_path, "done", job=slurm_job("7_8"), result={}),
        make_trial(tmp_path, "failed", job=slurm_job("7_9"), failure=FAILURE),
    ]
    assert cancel([*runs, *finals]) == runs
    calls = scancel.read_text().splitlines()
    assert calls[0] == "7_0 7_1 7_2" and len(calls) == 1 + len(runs)
    assert all("time" in json.loads(run.cancelled.read_text()) for run in runs)
    assert not any(run.cancelled.exists() for run in finals)
    assert cancel(runs) == [] and len(scancel.read_text().splitlines()) == len(calls)


def test_the_files_stay_when_slurm_does_not_answer(tmp_path, monkeypatch):
    run = make_trial(tmp_path, "a", job=slurm_job())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SubmissionError, match="scancel not found"):
        cancel([run])
    assert run.cancelled.exists()


def test_a_submission_under_way_is_waited_for(tmp_path, scancel):
    run = make_trial(tmp_path, "a")
    with locked(run.path.parent):
        thread = threading.Thread(target=cancel, args=([run],))
        thread.start()
        append_row(run.jobs, {**slurm_job("7_0"), "time": SUBMITTED, "host": "h", "submission": "s"})
        assert not run.cancelled.exists()
    thread.join(20)
    assert scancel.read_text().startswith("7_0\n")


def test_real_jobs_are_cancelled_and_others_left_alone(slurm, tmp_path):
    array = sbatch("--hold", "--array=0-3", "--wrap", "true")
    try:
        runs = [make_trial(tmp_path, f"t{i}", job=slurm_job(f"{array}_{i}")) for i in range(3)]
        assert cancel(runs[:2]) == runs[:2]
        wait_for(
            lambda: sorted(job_id for job_id, info in squeue([array]).items() if info.state == "PENDING"),
            20,
            "two elements to be left",
            until=lambda found: found == [f"{array}_2", f"{array}_3"],
        )
        assert [row.state for row in read_statuses(runs)] == ["cancelled", "cancelled", "pending"]
    finally:
        subprocess.run(["scancel", array], check=True)


def row(state, job=None, settled=True):
    return Row(RunDir(Path("/r/exp") / state), Record(job=job), state, "squeue did not answer", settled)


@pytest.mark.parametrize(
    ("of", "job", "retried"),
    [
        (row("failed", slurm_job()), Job("ended"), True),
        (row("failed", slurm_job()), Job("gone"), True),
        (row("failed", slurm_job()), Job("silent"), True),
        (row("failed", slurm_job()), Job("running", "COMPLETING"), False),
        (row("cancelled", slurm_job()), Job("waiting"), False),
        (row("cancelled", slurm_job()), Job("gone"), True),
        (row("cancelled"), None, True),
        (row("failed", local_job(5)), Job("waiting"), True),
        (row("failed", local_job(5)), Job("running"), False),
        (row("cancelled", local_job(5)), Job("waiting"), False),
        (row("cancelled", local_job(5)), Job("gone"), True),
        (row("unknown", slurm_job()), Job("gone"), True),
        (row("unknown", slurm_job(), settled=False), Job("silent"), False),
    ],
)
def test_what_is_retried(of, job, retried):
    plan = plan_retry([of], [job])
    assert plan.runs == ([of.run] if retried else [])
    assert len(plan.refused) == (not retried)


@pytest.mark.parametrize("state", ["pending", "running", "requeued", "done"])
def test_what_goes_on_or_is_done_is_not_retried(state):
    plan = plan_retry([row(state, slurm_job(), settled=False)], [Job("running")])
    assert not plan.runs and not plan.refused


def test_final_files_are_kept_under_a_number(tmp_path):
    run = make_trial(tmp_path, "a", failure=FAILURE, cancelled=True)
    set_aside(run)
    write_json(run.failure, {**FAILURE, "error": "y"})
    set_aside(run)
    set_aside(run)
    kept = sorted(path.name for path in run.path.glob("*.json"))
    assert kept == ["cancelled.1.json", "failure.1.json", "failure.2.json", "provenance.json"]
    assert json.loads((run.path / "failure.2.json").read_text())["error"] == "y"
    assert read_statuses([run])[0].state == "pending"


def test_a_retry_that_cannot_be_leaves_the_files(tmp_path):
    runs = [
        make_trial(tmp_path, "a", job=slurm_job(), failure=FAILURE),
        make_trial(tmp_path, "b", failure=FAILURE),
    ]
    with pytest.raises(SubmissionError, match="trial b: it was never submitted; say where with --on PROFILE"):
        retry(runs, None)
    assert all(run.failure.exists() for run in runs)


def test_a_trial_whose_checkpoints_are_gone_is_not_retried(tmp_path):
    saved = {"event": "end", "attempt": 1, "end_step": 30, "signal_to_saved_seconds": 0.2}
    begun = {"event": "start", "attempt": 2, "start_step": 30}
    runs = [
        make_trial(tmp_path, "gone", attempts=[{**begun, "attempt": 1, "start_step": 0}, saved, begun]),
        make_trial(tmp_path, "there", attempts=[begun], checkpoints=["step_00000030.00001"]),
        make_trial(tmp_path, "fresh", attempts=[{**begun, "start_step": 0}]),
    ]
    for run in runs[:2]:
        (run.path / "tokens" / "2").mkdir(parents=True)
    plan = without_lost(RetryPlan(list(runs)))
    assert plan.runs == runs[1:] and len(plan.refused) == 1
    assert plan.refused[0].startswith("gone: has no checkpoint, but one of step 30 was saved in ")


@pytest.mark.parametrize("broken", ["config", "profile"])
def test_a_retry_that_cannot_read_its_files_changes_nothing(tmp_path, broken):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "profile.yaml").write_text("cluster: local" if broken == "config" else "cluster: [")
    dead = local_job(2**22 + 1)
    runs = [make_trial(tmp_path, "a", job=dead, failure=FAILURE), make_trial(tmp_path, "b", job=dead, cancelled=True)]
    if broken == "config":
        runs[1].config.write_text("train: [")
    with pytest.raises(ConfigError, match="config.yaml:" if broken == "config" else "profile.yaml:"):
        retry(runs, None)
    assert runs[0].failure.exists() and runs[1].cancelled.exists()
    assert not list(tmp_path.glob("exp/*/*.1.json")) and len(runs[0].job_rows()) == 1


def listing(run: RunDir) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.path.iterdir() if path.is_file()}


def test_a_retry_that_the_cluster_refuses_changes_nothing(tmp_path, monkeypatch):
    """What had failed or was cancelled stays so: else the next submission would send it."""
    first = prepare_run(tmp_path)
    runs = [first, *(RunDir(first.path.with_name(name)) for name in ("b", "c"))]
    for run in runs[1:]:
        shutil.copytree(first.path, run.path)
    write_json(runs[0].failure, FAILURE)
    write_json(runs[1].cancelled, {"time": 0.0})
    write_json(runs[2].failure, FAILURE)
    place = tmp_path / "site.yaml"
    place.write_text("cluster: local")
    before = {run: listing(run) for run in runs}

    def refuse(members, *_: object) -> None:
        assert not any(run.failure.exists() or run.cancelled.exists() for run, _ in members)
        append_row(runs[2].jobs, {"time": time.time(), "submission": "s", **local_job(2**22 + 1)})
        raise dispatch.RefusedError("sbatch: Invalid qos specification")

    monkeypatch.setattr(shipment, "send", refuse)
    with pytest.raises(SubmissionError, match="Invalid qos"):
        retry(runs, str(place), ranks=2, code="current")
    assert all(listing(run) == before[run] for run in runs[:2])
    assert not runs[2].failure.exists(), "of an earlier array of the same submission, which was sent"
    assert load_trial(runs[2].config).resources.ranks == 2


@pytest.mark.slurm
def test_a_retry_is_refused_for_what_a_submission_would_be(slurm, tmp_path):
    run = prepare_run(tmp_path)
    write_json(run.failure, FAILURE)
    before, place = listing(run), tmp_path / "site.yaml"
    for lines, ranks, problem in (
        ("partition: lwo", None, 'partition: "lwo" is not allowed; did you mean "low"'),
        (
            "gpus_per_node: 4\ntrials_per_job: 4",
            8,
            "trials_per_job: 4 is not allowed; a trial of 8 ranks takes 2 nodes",
        ),
    ):
        place.write_text(f"cluster: slurm\n{lines}")
        with pytest.raises(ConfigError, match=problem):
            retry([run], str(place), ranks=ranks)
        assert listing(run) == before and not list(run.path.parent.glob(".submissions/*"))


def test_a_retry_of_several_submissions_is_one_for_each_profile(tmp_path, monkeypatch):
    """Each submission has a copy of its profile; all that is sent again has one process and often one second."""
    first = prepare_run(tmp_path)
    runs = [first, *(RunDir(first.path.with_name(name)) for name in ("b", "c"))]
    for run, parallel in zip(runs, (3, 3, 4), strict=True):
        place = tmp_path / f"{run.trial}.submission"
        place.mkdir()
        (place / "profile.yaml").write_text(f"{{cluster: local, parallel: {parallel}}}")
        if run != first:
            shutil.copytree(first.path, run.path, ignore=shutil.ignore_patterns("jobs.jsonl", "failure.json"))
        append_row(run.jobs, {"time": SUBMITTED, "submission": str(place), **local_job(2**22 + 1)})
        write_json(run.failure, FAILURE)
    monkeypatch.setattr(dispatch, "start", lambda *_: psutil.Process())
    monkeypatch.chdir(tmp_path)
    # A job starts in another folder than this one.
    assert retry([RunDir(run.path.relative_to(tmp_path)) for run in runs], None).runs == runs
    sent = [SubmissionDir(Path(run.job_rows()[1]["submission"])) for run in runs]
    assert [load_profile(each.profile).parallel for each in sent] == [3, 3, 4]
    assert sent[0] == sent[1] and sent[0].members() == runs[:2] and sent[2].members() == runs[2:]


def test_a_retry_waits_for_what_is_just_ending_and_says_so_once(tmp_path, monkeypatch, capsys):
    queue = subprocess.Popen([sys.executable, "-c", "input(); input()"], stdin=subprocess.PIPE)
    job = local_job(queue.pid, psutil.Process(queue.pid).create_time())
    run = make_trial(tmp_path, "a", job=job, attempts=[start(1)], cancelled=True)
    try:
        wait_for_ending([run], 0)
        assert queue.poll() is None and capsys.readouterr().err == ""
        polls = iter([lambda: queue.stdin.write(b"\n"), lambda: queue.communicate(b"\n")])
        monkeypatch.setattr(time, "sleep", lambda seconds: next(polls)())
        wait_for_ending([run], 30)
        assert queue.poll() == 0
        assert capsys.readouterr().err == "runner: waiting up to 30 s for jobs to end: a\n"
    finally:
        queue.kill()
        queue.communicate()
