"""Whether a trial goes on after its processes ended, as data."""

import json
from pathlib import Path

import pytest

from runner.attempt import claim
from runner.requeue import decide, failures_without_progress, judge, read_crashes
from runner.rundir import RunDir

FACTS = {
    "launch": "7.0",
    "done": False,
    "cancelled": False,
    "job_state": "RUNNING",
    "attempts": [],
    "crashes": [],
    "max_failures": 3,
}


def start(attempt: int, step: int, launch: str = "7.0") -> dict:
    return {"event": "start", "attempt": attempt, "start_step": step, "launch": launch}


def end(attempt: int, cause: str, requeue: bool = True) -> dict:
    return {"event": "end", "attempt": attempt, "cause": cause, "requeue": requeue}


def crash(rank: int, cause: str, time: float = 0.0) -> dict:
    return {"rank": rank, "cause": cause, "error": f"{cause} of {rank}", "time": time}


@pytest.mark.parametrize(
    ("exit_code", "facts", "action", "cause"),
    [
        (0, {"done": True}, "done", "done"),
        (137, {"done": True}, "done", "done"),
        (143, {"cancelled": True}, "leave", "cancelled"),
        (143, {"job_state": "COMPLETING"}, "leave", "terminated"),
        (143, {"job_state": "CANCELLED"}, "leave", "terminated"),
        (255, {"job_state": "PENDING"}, "leave", "terminated"),
        (137, {"job_state": "no answer (timeout)"}, "leave", "terminated"),
        # a killed rank, seen by its peer
        (137, {"attempts": [start(1, 0)], "crashes": [crash(0, "peer crash")]}, "requeue", "killed"),
        (1, {"attempts": [start(1, 0)], "crashes": [crash(0, "peer crash")]}, "requeue", "peer crash"),
        (137, {"attempts": [start(1, 0)]}, "requeue", "killed"),
        # a signal before any handler: 140, and no attempt has started
        (140, {}, "requeue", "launch failed"),
        (140, {"attempts": [start(1, 0, "6.0"), end(1, "preempted")]}, "requeue", "launch failed"),
        # saved, but scontrol did not answer
        (75, {"attempts": [start(1, 0), end(1, "preempted")]}, "requeue", "preempted"),
        # another launch has a newer attempt: to requeue this one would end it
        (1, {"attempts": [start(1, 0), start(2, 0, "8.0")], "superseded": True}, "leave", "superseded"),
        # what would only come again
        (
            1,
            {"attempts": [start(1, 0)], "crashes": [crash(1, "user code"), crash(0, "peer crash")]},
            "fail",
            "user code",
        ),
        (1, {"attempts": [start(1, 0)], "crashes": [crash(0, "non-finite loss")]}, "fail", "non-finite loss"),
        (1, {"attempts": [start(1, 0)], "crashes": [crash(0, "configuration")]}, "fail", "configuration"),
        (1, {"crashes": [crash(0, "data")]}, "fail", "data"),
        # the budget
        (
            137,
            {"attempts": [x for n in (1, 2, 3) for x in (start(n, 50), end(n, "killed"))] + [start(4, 50)]},
            "fail",
            "killed",
        ),
        (
            137,
            {"attempts": [x for n in (1, 2, 3) for x in (start(n, 50 * n), end(n, "killed"))] + [start(4, 200)]},
            "requeue",
            "killed",
        ),
        (140, {"attempts": [end(0, "launch failed")] * 3}, "fail", "launch failed"),
    ],
)
def test_decision(exit_code, facts, action, cause):
    decision = decide(exit_code, **{**FACTS, **facts})
    assert (decision.action, decision.cause) == (action, cause), decision.reason


def test_progress_and_preemptions_reset_the_count():
    rows = [
        start(1, 0),
        end(1, "killed"),
        start(2, 0),
        end(2, "preempted"),
        start(3, 0),
        end(3, "killed"),
        start(4, 0),
    ]
    assert failures_without_progress(rows) == 1
    assert failures_without_progress([*rows, end(4, "killed"), start(5, 10)]) == 0


def test_judge_writes_the_end_and_the_failure(tmp_path):
    run = RunDir(tmp_path)
    attempt = claim(run)
    attempt.record_start(job_id="1", launch="1.0", world=2, step=5, steps=9, resumed_from=None)
    try:
        raise ZeroDivisionError("of the user's own making\nsecond line")
    except ZeroDivisionError as error:
        attempt.record_crash(error, "user code", step=7)
    assert judge(run, "1.0", 1, "RUNNING", 3).action == "fail"
    failure = json.loads(run.failure.read_text())
    assert failure["cause"] == "user code" and failure["rank"] == 0
    assert failure["error"] == "rank 0: ZeroDivisionError: of the user's own making"
    assert "of the user's own making" in Path(failure["traceback"]).read_text()
    assert [row["event"] for row in run.attempt_rows()] == ["start", "end"]
    assert run.attempt_rows()[-1]["end_step"] == 7


def test_the_culprit_comes_before_its_victims(tmp_path):
    run = RunDir(tmp_path)
    attempt = claim(run)
    for rank, cause in [(0, "peer crash"), (1, "user code")]:
        type(attempt)(run, attempt.number, rank).record_crash(RuntimeError("x"), cause, step=None)
    assert [row["rank"] for row in read_crashes(run, 1)] == [1, 0]
