"""Whether a trial goes on after its processes ended, as data."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.attempt import claim, describe_place
from runner.budgets import DAY_SECONDS, EQUAL_CRASHES, NEVER, POLICIES, End, count_crashes, read_ends, verdict
from runner.causes import Crash, Evidence
from runner.decision import Decision, Facts, decide
from runner.evidence import mark, read_crashes, read_tail
from runner.files import append_row, read_json
from runner.requeue import allow, judge, settle_lost
from runner.rundir import RunDir
from runner.slurm_text import JobInfo


def start(attempt: int, step: int, launch: str = "7.0", at: float = 0.0) -> dict[str, Any]:
    return {"event": "start", "attempt": attempt, "start_step": step, "launch": launch, "time": at, "world_size": 2}


def end(attempt: int, cause: str, requeue: bool = True, **more: Any) -> dict[str, Any]:
    return {"event": "end", "attempt": attempt, "cause": cause, "requeue": requeue, "time": 0.0, **more}


def crash(rank: int, cause: str, time: float = 0.0, **more: Any) -> Crash:
    return Crash(rank, cause, f"{cause} of {rank}", time, **more)


def crashed(cause: str, count: int, step: int = 50, every: int = 0) -> tuple[dict[str, Any], ...]:
    """Rows of `count` attempts that ended so, each `every` steps further, and the start of the next."""
    rows = [row for n in range(1, count + 1) for row in (start(n, step + every * n), end(n, cause))]
    return (*rows, start(count + 1, step + every * (count + 1)))


NOTHING: dict[str, Any] = {}
BEGUN = {"attempts": (start(1, 0),)}


@pytest.mark.parametrize(
    ("facts", "evidence", "action", "cause"),
    [
        ({"done": True}, {"exit_code": 0}, "done", "done"),
        ({"done": True}, {"exit_code": 137}, "done", "done"),
        ({"cancelled": True}, {"exit_code": 143}, "leave", "cancelled"),
        ({"failed": True}, {"exit_code": 143}, "leave", "failed"),
        (BEGUN, {"exit_code": 143, "job_state": "COMPLETING"}, "leave", "terminated"),
        (BEGUN, {"exit_code": 143, "job_state": "CANCELLED"}, "leave", "cancelled"),
        (NOTHING, {"exit_code": 255, "job_state": "PENDING"}, "leave", "terminated"),
        (NOTHING, {"exit_code": 137, "job_state": "no answer (timeout)"}, "leave", "terminated"),
        # a signal of a preemption is still on its way to some node
        ({"attempts": (start(1, 0), end(1, "preempted"))}, {"job_state": "SIGNALING"}, "requeue", "preempted"),
        (NOTHING, {"exit_code": 140, "job_state": "SIGNALING", "started": False}, "requeue", "launch failed"),
        # a killed rank, seen by its peer
        (BEGUN, {"exit_code": 137, "crashes": (crash(0, "peer crash"),)}, "requeue", "killed"),
        (BEGUN, {"crashes": (crash(0, "peer crash"), crash(1, "peer crash"))}, "requeue", "peer crash"),
        (BEGUN, {"exit_code": 137}, "requeue", "killed"),
        # a signal before any handler: 140, and no attempt has started
        (NOTHING, {"exit_code": 140, "started": False}, "requeue", "launch failed"),
        (
            {"attempts": (start(1, 0, "6.0"), end(1, "preempted"))},
            {"exit_code": 138, "started": False},
            "requeue",
            "launch failed",
        ),
        # saved, but scontrol did not answer
        ({"attempts": (start(1, 0), end(1, "preempted"))}, {"exit_code": 75}, "requeue", "preempted"),
        # saved because of a TERM that came from nowhere
        ({"attempts": (start(1, 0), end(1, "terminated", False))}, {"exit_code": 143}, "requeue", "terminated"),
        # the end of training was written, the result was not
        ({"attempts": (start(1, 0), end(1, "done", False))}, {"exit_code": 137}, "requeue", "killed"),
        # another launch has a newer attempt: to requeue this one would end it
        ({"attempts": (start(1, 0), start(2, 0, "8.0")), "superseded": True}, NOTHING, "leave", "superseded"),
        (BEGUN, {"crashes": (crash(0, "superseded"), crash(1, "peer crash"))}, "leave", "superseded"),
        # what would only come again
        (BEGUN, {"crashes": (crash(1, "user code", 9), crash(0, "peer crash"))}, "fail", "user code"),
        *((BEGUN, {"crashes": (crash(0, cause),)}, "fail", cause) for cause in ("non-finite loss", "configuration")),
        *((BEGUN, {"crashes": (crash(0, cause),)}, "fail", cause) for cause in ("bad checkpoint", "disk full")),
        (NOTHING, {"crashes": (crash(0, "bad data"),), "started": False}, "fail", "bad data"),
        # the bound of the profile
        ({"attempts": crashed("killed", 3)}, {"exit_code": 137}, "fail", "killed"),
        ({"attempts": crashed("killed", 3, every=10)}, {"exit_code": 137}, "requeue", "killed"),
        ({"attempts": crashed("killed", 1), "max_failures": 1}, {"exit_code": 137}, "fail", "killed"),
        ({"max_failures": 0, **BEGUN}, {"exit_code": 137}, "fail", "killed"),
        (
            {"attempts": (end(0, "launch failed"),) * 3},
            {"exit_code": 140, "started": False},
            "fail",
            "launch failed",
        ),
    ],
)
def test_decision(facts, evidence, action, cause):
    decision = decide(Facts("7.0", **facts), Evidence(**{"world": 2, **evidence}))
    assert (decision.action, decision.cause) == (action, cause), decision.reason


def ends(cause: str, count: int, **more: Any) -> list[End]:
    return [End(cause, start_step=0, **more)] * count


def test_the_table_is_what_the_documents_say():
    told = {cause: (policy.requeues, policy.counted, policy.is_crash) for cause, policy in POLICIES.items()}
    assert told == {
        "preempted": (5, "without progress", False),
        "time limit": (5, "without progress", False),
        "terminated": (5, "without progress", False),
        "node failure": (5, "in a day", False),
        "killed": (None, "without progress", True),
        "launch failed": (None, "without progress", True),
        "peer crash": (3, "without progress", True),
        "I/O error": (3, "without progress", True),
        "hang": (2, "in all", True),
        "CUDA out of memory": (1, "in all", True),
    }
    assert NEVER.requeues == 0


@pytest.mark.parametrize(
    ("cause", "budget"), [(cause, policy.requeues) for cause, policy in POLICIES.items() if policy.requeues is not None]
)
def test_each_class_has_its_budget(cause, budget):
    for count in range(1, budget + 3):
        why_not, _ = verdict(ends(cause, count), max_failures=99, has_stepped=True)
        assert (why_not is None) == (count <= budget), why_not


def test_progress_gives_a_new_budget_and_nothing_else_does():
    stuck = [*ends("killed", 2), *ends("preempted", 2), *ends("killed", 1)]
    assert count_crashes(stuck) == 3
    assert count_crashes([*stuck, End("preempted", start_step=0, progressed=True), *ends("killed", 1)]) == 1
    assert count_crashes([*stuck, End("killed", start_step=0, progressed=True)]) == 1
    assert verdict(ends("preempted", 40, progressed=True), 0, True) == (None, 0)
    assert verdict(ends("hang", 3, progressed=True), 9, True)[0] == "hang came 3 times in all; it is requeued 2 times"


def test_failures_of_nodes_count_for_a_day():
    spread = [End("node failure", time=n * DAY_SECONDS / 4) for n in range(30)]
    assert verdict(spread, 0, True) == (None, 0)
    assert verdict([End("node failure", time=n * DAY_SECONDS / 7) for n in range(6)], 0, True)[0] is not None


def test_cuda_memory_gets_one_more_try_only_after_a_step():
    assert verdict(ends("CUDA out of memory", 1), 3, has_stepped=False)[0] is not None
    assert verdict(ends("CUDA out of memory", 1), 3, has_stepped=True) == (None, 0)
    assert verdict(ends("CUDA out of memory", 2), 3, has_stepped=True)[0] is not None


def test_crashes_wait_longer_each_time():
    waits = [verdict(ends("killed", count), 9, True)[1] for count in range(1, 6)]
    assert waits == [0, 60, 300, 300, 300]
    assert verdict(ends("preempted", 4), 9, True)[1] == 0


def test_equal_crashes_stop_a_trial():
    same = {"signature": "OSError in data/x.py:read", "step": 12}
    assert verdict(ends("I/O error", 2, **same), 9, True)[0] is None
    assert "the same at step 12" in str(verdict(ends("I/O error", 3, **same), 9, True)[0])
    between = [*ends("I/O error", 2, **same), *ends("preempted", 1), *ends("I/O error", 1, **same)]
    assert verdict(between, 9, True)[0] is not None
    other = [*ends("I/O error", 2, **same), *ends("I/O error", 1, signature=same["signature"], step=13)]
    assert verdict(other, 9, True)[0] is None
    assert verdict(ends("killed", 3, step=12), 9, True)[0] is None, "without a word nobody knows whether it is the same"


def test_ends_are_read_from_rows():
    rows = [
        start(1, 0),
        end(1, "preempted", end_step=9),
        start(2, 9),
        end(2, "killed"),
        end(2, "launch failed"),
        start(3, 9),
    ]
    assert [(e.cause, e.start_step, e.progressed) for e in read_ends(rows)] == [
        ("preempted", 0, True),
        ("killed", 9, False),
        ("launch failed", None, False),
    ]
    newest = [start(1, 0), end(1, "preempted", end_step=9, signal_to_saved_seconds=0.1)]
    assert read_ends(newest)[0].progressed


EVENT = st.sampled_from([*POLICIES, "user code", "cancel", "done", "zombie", "unsaved", "progress", "scancel"])
EVENTS = st.lists(EVENT, min_size=1, max_size=3).flatmap(lambda some: st.lists(st.sampled_from(some), max_size=30))
"""Few kinds of events in one string, so that they come often enough to use a budget up."""


@settings(max_examples=400)
@given(events=EVENTS, max_failures=st.integers(0, 6), hours=st.integers(0, 12), world=st.integers(1, 2))
def test_no_string_of_events_breaks_a_rule(events, max_failures, hours, world):
    """Budgets hold, what is over stays over, and a trial never has two owners."""
    facts = Facts("7.0", max_failures=max_failures)
    number, step, over, owners = 0, 0, "", 1
    for event in events:
        facts = replace(facts, now=facts.now + hours * 3600)
        if event == "progress":
            step += 10
            continue
        if event == "zombie":
            # A launch that was cut off ends late, beside the one that took over.
            decision = decide(replace(facts, superseded=True), Evidence(137, world=2))
            assert decision.action in ("leave", "done")
            continue
        number += 1
        rows = (*facts.attempts, start(number, step, f"7.{number}", facts.now))
        facts = replace(facts, launch=f"7.{number}", attempts=rows, saved_step=None)
        facts = replace(facts, cancelled=facts.cancelled or event == "cancel", done=facts.done or event == "done")
        state = {"unsaved": "COMPLETING", "scancel": "CANCELLED"}.get(event, "RUNNING")
        crashes = (crash(0, event, step=step, signature=f"E in {event}"),) if event in (*POLICIES, "user code") else ()
        decision = decide(facts, Evidence(1, state, crashes=crashes, world=world))
        owners -= 1
        if decision.action == "requeue":
            owners += 1
        assert owners <= 1
        if over or event in ("cancel", "scancel", "done", "user code"):
            assert decision.action != "requeue", (event, over)
        over = over or (event if event in ("cancel", "done") else "")
        found = decision.diagnosis
        told = {"end_step": found.step, "signature": found.signature} if found else {}
        row = end(number, decision.cause, decision.action == "requeue", time=facts.now, **told)
        facts = replace(facts, attempts=(*rows, row))
        check_budgets(facts, decision, max_failures)
        if decision.action != "requeue":
            # Somebody starts it again: Slurm, or a user who retries what has failed.
            owners = 1
            if decision.action == "fail":
                facts = replace(facts, attempts=())


def check_budgets(facts: Facts, decision: Decision, max_failures: int) -> None:
    """The rules, counted naively from the rows."""
    if decision.action != "requeue":
        return
    policy = POLICIES.get(decision.cause, NEVER)
    assert policy.requeues != 0
    starts = [row for row in facts.attempts if row["event"] == "start"]
    rows = [row for row in facts.attempts if row["event"] == "end"]
    stuck = [row for row, begun in zip(rows, starts, strict=True) if begun["start_step"] == starts[-1]["start_step"]]
    among = {
        "without progress": stuck,
        "in all": rows,
        "in a day": [row for row in rows if row["time"] > facts.now - DAY_SECONDS],
    }[policy.counted]
    if policy.requeues is not None:
        assert sum(row["cause"] == decision.cause for row in among) <= policy.requeues
    if policy.is_crash:
        crashes = [row for row in stuck if POLICIES.get(row["cause"], NEVER).is_crash]
        assert len(crashes) <= max_failures
        last = [(row["cause"], row["signature"], row["end_step"]) for row in crashes[-EQUAL_CRASHES:]]
        assert len(last) < EQUAL_CRASHES or len(set(last)) > 1 or last[0][1] is None
        assert decision.delay_seconds == [0, 60, 300][min(len(crashes), 3) - 1]


@pytest.fixture
def run(tmp_path) -> RunDir:
    """A trial's folder below a run root."""
    path = tmp_path / "runs" / "exp" / "trial"
    (path / "logs").mkdir(parents=True)
    return RunDir(path)


def begin(run: RunDir, launch: str, step: int = 5, nodes: tuple[str, ...] = ("n1", "n2")) -> Any:
    attempt = claim(run)
    attempt.record_start(job_id="1", launch=launch, world=2, step=step, steps=9, resumed_from=None, nodes=nodes)
    return attempt


def test_judge_writes_the_end_and_the_failure(run):
    attempt = begin(run, "1.0")
    try:
        raise ZeroDivisionError("of the user's own making\nsecond line")
    except ZeroDivisionError as error:
        attempt.record_crash(error, "user code", step=7)
        assert describe_place(error) == "ZeroDivisionError in test_requeue.py:test_judge_writes_the_end_and_the_failure"
    assert judge(run, "1.0", 1, "RUNNING", 3).action == "fail"
    failure = json.loads(run.failure.read_text())
    assert failure["cause"] == "user code" and failure["rank"] == 0
    assert failure["error"] == "rank 0: ZeroDivisionError: of the user's own making"
    assert "of the user's own making" in Path(failure["traceback"]).read_text()
    assert [row["event"] for row in run.attempt_rows()] == ["start", "end"]
    assert run.attempt_rows()[-1]["end_step"] == 7
    assert judge(run, "1.0", 1, "RUNNING", 3).action == "leave" and len(run.attempt_rows()) == 2, "only once"


def test_the_others_died_because_of_the_culprit(run):
    attempt = begin(run, "1.0")
    for rank, cause in [(0, "peer crash"), (1, "user code")]:
        type(attempt)(run, attempt.number, rank).record_crash(RuntimeError("x"), cause, step=None)
    type(attempt)(run, attempt.number, 1).record_crash(RuntimeError("in the clean-up"), "peer crash", step=None)
    assert [(row["rank"], row["cause"]) for row in read_crashes(run, 1)] == [(1, "user code"), (0, "peer crash")]
    judge(run, "1.0", 1, "RUNNING", 3)
    assert [row.get("because_of_rank") for row in read_crashes(run, 1)] == [None, 1]
    assert run.attempt_rows()[-1]["rank"] == 1


def test_a_rank_that_left_no_word_is_the_culprit(run):
    attempt = begin(run, "1.0")
    attempt.record_crash(RuntimeError("Connection closed by peer"), "peer crash", step=6)
    assert judge(run, "1.0", 137, "RUNNING", 0).action == "fail"
    failure = read_json(run.failure)
    assert failure is not None and (failure["cause"], failure["rank"]) == ("killed", 1)
    assert read_crashes(run, 1)[0]["because_of_rank"] == 1


def test_a_cancelled_attempt_that_was_killed_has_its_end_too(run):
    begin(run, "1.0")
    run.cancelled.touch()
    for _ in range(2):
        assert judge(run, "1.0", 137, "CANCELLED", 3).action == "leave"
    assert [row["cause"] for row in run.attempt_rows() if row["event"] == "end"] == ["cancelled"]
    assert not run.failure.exists()


def test_a_retry_has_its_budgets_anew(run):
    for number in range(2):
        append_row(run.jobs, {"time": time.time(), "submission": "s", "job_id": str(number), "cluster": "slurm"})
        begin(run, f"{number}.0")
        assert judge(run, f"{number}.0", 137, "RUNNING", 1).action == "requeue"
    begin(run, "1.1")
    assert judge(run, "1.1", 137, "RUNNING", 1).action == "fail"


def test_a_node_whose_clock_is_ahead_spends_no_budget_of_a_retry(run, monkeypatch):
    now = time.time()
    append_row(run.jobs, {"time": now, "submission": "s", "job_id": "7_0", "cluster": "slurm"})
    with monkeypatch.context() as ahead:
        ahead.setattr(time, "time", lambda: now + 3600)
        begin(run, "7_0.0")
        assert judge(run, "7_0.0", 137, "RUNNING", 0).action == "fail"
    append_row(run.jobs, {"time": now + 5, "submission": "t", "job_id": "9_0", "cluster": "slurm"})
    run.failure.unlink()
    begin(run, "9_0.0")
    assert judge(run, "9_0.0", 137, "RUNNING", 1).action == "requeue"
    begin(run, "9_0.1")
    assert judge(run, "9_0.1", 137, "RUNNING", 1).action == "fail"


def test_a_job_that_came_back_without_a_word_lost_its_node(run, tmp_path):
    begin(run, "7_0.0", nodes=("n1", "n1"))
    assert settle_lost(run, "8_0.1", None, 3, tmp_path) is None, "another job"
    assert settle_lost(run, "7_0.0", None, 3, tmp_path) is None, "this very launch"
    decision = settle_lost(run, "7_0.1", None, 3, tmp_path)
    assert decision is not None and (decision.cause, decision.node) == ("node failure", "n1")
    last = run.attempt_rows()[-1]
    assert last["cause"] == "node failure" and last["requeue"] and last["attempt"] == 1
    assert settle_lost(run, "7_0.1", None, 3, tmp_path) is None, "once"


def test_without_accounts_the_log_knows_better_than_silence(run, tmp_path):
    begin(run, "7.0", nodes=("n1", "n1"))
    told = "slurmstepd: error: *** STEP 7.0 ON n1 CANCELLED AT 2026-11-26T10:00:00 DUE TO PREEMPTION ***"
    (tmp_path / "7_0_log.err").write_text(f"{mark('7.0')}\n{told}\n")
    decision = settle_lost(run, "7.1", None, 3, tmp_path)
    assert decision is not None and (decision.action, decision.cause, decision.node) == ("requeue", "preempted", None)


def test_the_accounts_know_better_than_silence(run, tmp_path):
    begin(run, "7.0")
    preempted = JobInfo("7", "PREEMPTED", "n1", None, None, "None", 0, 15)
    decision = settle_lost(run, "7.1", preempted, 3, tmp_path)
    assert decision is not None and decision.cause == "preempted" and decision.node is None


def test_a_trial_that_never_gets_on_is_not_started_for_ever(run, tmp_path):
    append_row(run.jobs, {"time": 0.0, "submission": "s", "job_id": "7", "cluster": "slurm"})
    for number in range(5):
        begin(run, f"7.{number}")
        assert allow(run, f"7.{number}", "preempted", 5) is None
        append_row(run.attempts, end(number + 1, "preempted", time=time.time(), end_step=5))
    begin(run, "7.5")
    assert allow(run, "7.5", "preempted", 6) is None, "one step further"
    assert allow(run, "7.5", "preempted", 5) == "preempted came 6 times without progress; it is requeued 5 times"
    preempted = JobInfo("7", "PREEMPTED", "n1", None, None, "None", 0, 15)
    decision = settle_lost(run, "7.6", preempted, 3, tmp_path)
    assert decision is not None and decision.action == "fail" and run.failure.exists()


def test_only_the_words_of_the_launch_itself_are_read(tmp_path):
    log = tmp_path / "7_0_log.err"
    log.write_text(f"{mark('7.0')}\nslurmstepd: error: Detected 1 oom_kill event\n{mark('7.1')}\nnothing special\n")
    assert read_tail(log, "7.1") == "nothing special\n"
    assert read_tail(log, "7.2") == "" and read_tail(tmp_path / "none") == ""
    assert "oom_kill" in read_tail(log)
    with log.open("a") as file:
        file.write("x" * 100_000)
    assert read_tail(log, "7.1").endswith("xxx"), "its first line has scrolled away"
