"""What a signal meant: never a second requeue, never a cancelled job back, never a preemption taken for an end."""

import shlex

import pytest

from runner.files import write_json
from runner.preemption import Verdict
from runner.rendezvous import Place
from runner.rundir import RunDir
from runner.verdict import interpret, settle_verdict

NOW = 1_800_000_000
SAVE, REQUEUE = Verdict.SAVE, Verdict.REQUEUE


def job(state="RUNNING", end=NOW + 86_400, preempted="None"):
    """What `slurm.show_job` gives, as far as it matters here: times are unix seconds in text."""
    return {"JobState": state, "EndTime": str(end), "PreemptTime": preempted}


@pytest.mark.parametrize(
    ("heard", "found", "meaning"),
    [
        # With USR2, and where a preemption is told by TERM alone.
        (REQUEUE, job(preempted=str(NOW - 1), end=NOW + 30), (REQUEUE, "preempted")),
        (SAVE, job(preempted=str(NOW - 1), end=NOW + 30), (REQUEUE, "preempted")),
        (SAVE, job("SIGNALING", preempted=str(NOW), end=NOW + 8), (REQUEUE, "preempted")),
        # Near the end of its time, up to a minute earlier than was asked for.
        (REQUEUE, job(end=NOW + 110), (REQUEUE, "time limit")),
        (REQUEUE, job(end=NOW + 180), (REQUEUE, "time limit")),
        (SAVE, job(end=NOW - 5), (REQUEUE, "time limit")),
        # Somebody's `scancel --signal=USR2`, or a TERM that is no cancel.
        (REQUEUE, job(end=NOW + 181), (REQUEUE, "preempted")),
        (SAVE, job(), (REQUEUE, "terminated")),
        # A cancelled job must not come back, and one that is requeued already must not be requeued twice.
        (SAVE, job("COMPLETING"), (SAVE, "terminated")),
        (REQUEUE, job("COMPLETING", preempted=str(NOW)), (SAVE, "terminated")),
        (REQUEUE, job("CANCELLED"), (SAVE, "terminated")),
        (REQUEUE, job("PENDING"), (SAVE, "terminated")),
        (REQUEUE, {}, (SAVE, "terminated")),
        # Fields that are missing or not a time.
        (REQUEUE, {"JobState": "RUNNING"}, (REQUEUE, "preempted")),
        (REQUEUE, job(end="Unknown"), (REQUEUE, "preempted")),
    ],
)
def test_what_a_signal_means(monkeypatch, heard, found, meaning):
    monkeypatch.setenv("RUNNER_SIGNAL_LEAD_SECONDS", "120")
    assert interpret(heard, found, NOW) == meaning


def test_our_own_clock_stands_in_for_a_signal():
    assert interpret(REQUEUE, job(end=NOW + 5000), NOW, time_is_up=True) == (REQUEUE, "time limit")
    # What others have decided meanwhile holds.
    assert interpret(REQUEUE, job("COMPLETING"), NOW, time_is_up=True) == (SAVE, "terminated")
    assert interpret(REQUEUE, job(preempted=str(NOW)), NOW, time_is_up=True) == (REQUEUE, "preempted")


def test_the_lead_is_that_of_the_profile(monkeypatch):
    monkeypatch.setenv("RUNNER_SIGNAL_LEAD_SECONDS", "600")
    assert interpret(REQUEUE, job(end=NOW + 650), NOW)[1] == "time limit"
    monkeypatch.delenv("RUNNER_SIGNAL_LEAD_SECONDS")
    assert interpret(REQUEUE, job(end=NOW + 650), NOW)[1] == "preempted"


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """Answers of a scontrol on PATH."""

    def answer(text, code=0):
        path = tmp_path / "scontrol"
        path.write_text(f"#!/bin/sh\necho {shlex.quote(text)}\nexit {code}\n")
        path.chmod(0o755)

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    return answer


def test_the_scheduler_is_asked(scontrol, tmp_path):
    run = RunDir(tmp_path)
    scontrol("JobId=7 JobState=COMPLETING EndTime=1800000000")
    assert settle_verdict(REQUEUE, Place(job_id="7"), run) == (SAVE, "terminated")
    scontrol("JobId=7 JobState=RUNNING EndTime=99999999999 PreemptTime=None")
    assert settle_verdict(SAVE, Place(job_id="7"), run) == (REQUEUE, "terminated")


def test_without_an_answer_a_signal_is_taken_at_its_word(scontrol, monkeypatch, tmp_path):
    run = RunDir(tmp_path)
    scontrol("slurm_load_jobs error: Unable to contact slurm controller", code=1)
    assert settle_verdict(REQUEUE, Place(job_id="7"), run) == (REQUEUE, "preempted")
    assert settle_verdict(SAVE, Place(job_id="7"), run) == (SAVE, "terminated")
    scontrol("JobId=7 JobState=COMPLETING")
    assert settle_verdict(REQUEUE, Place(job_id="debug"), run) == (REQUEUE, "preempted"), "no job of Slurm's"
    monkeypatch.delenv("SLURM_JOB_ID")
    assert settle_verdict(REQUEUE, Place(job_id="7"), run) == (REQUEUE, "preempted")


def test_what_the_user_cancelled_is_not_requeued_whatever_slurm_says_yet(scontrol, tmp_path):
    scontrol(f"JobId=7 JobState=RUNNING PreemptTime={NOW}")
    run = RunDir(tmp_path)
    assert settle_verdict(SAVE, Place(job_id="7"), run)[0] is REQUEUE
    write_json(run.cancelled, {"time": NOW})
    assert settle_verdict(SAVE, Place(job_id="7"), run) == (SAVE, "cancelled")
