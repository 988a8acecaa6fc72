"""A job leaves in time before its limit though nobody signals it."""

import os
import time

import pytest

from runner import time_limit
from runner.faults import Fault, Proof
from runner.preemption import LATENCY_SECONDS, Preemption, Verdict
from runner.rank import run_rank
from runner.rendezvous import Place
from runner.time_limit import MARGIN_SECONDS, TimeLimit, keeping, last_moment, of_job
from tests.experiments import prepare_run, train_here

HOUR = 3600.0


@pytest.mark.parametrize(
    ("end", "step", "save", "margin", "expected"),
    [
        (HOUR, 0.0, 0.0, 0.0, HOUR - 2 * LATENCY_SECONDS),
        (HOUR, 0.0, 0.0, 15.0, HOUR - 2 * LATENCY_SECONDS - 15),
        (HOUR, 10.0, 0.0, 15.0, HOUR - 2 * LATENCY_SECONDS - 35),
        (HOUR, 10.0, 60.0, 15.0, HOUR - 2 * LATENCY_SECONDS - 155),
        # Half of the time is for training, though the saves would need more.
        (60.0, 0.1, 25.0, 15.0, 30.0),
        (HOUR, 1000.0, 1000.0, 15.0, HOUR / 2),
    ],
)
def test_the_last_moment_leaves_room_for_steps_and_save(end, step, save, margin, expected):
    assert last_moment(0.0, end, step, save, margin) == pytest.approx(expected)
    assert last_moment(1e9, 1e9 + end, step, save, margin) == pytest.approx(1e9 + expected)


def limit_at(end: float | None, answers: list[float | None]) -> tuple[TimeLimit, list[float | None]]:
    """A limit of a job that began at 0, and what the scheduler will say of it, one after the other."""
    limit = TimeLimit(end, lambda: answers.pop(0))
    limit.began = 0.0
    limit.observe_save(2.5)
    return limit, answers


def first_moment(limit: TimeLimit, until: int = 20_000) -> int | None:
    return next((now for now in range(until) if limit.is_up(float(now))), None)


def test_it_is_up_at_the_last_moment_and_asks_once_before():
    limit, answers = limit_at(HOUR, [HOUR])
    assert first_moment(limit) == HOUR - 2 * LATENCY_SECONDS - 5 - MARGIN_SECONDS
    assert answers == []


def test_a_limit_that_was_moved_holds_and_one_that_cannot_be_read_stays():
    limit, answers = limit_at(HOUR, [2 * HOUR, None])
    assert first_moment(limit) == 2 * HOUR - 2 * LATENCY_SECONDS - 5 - MARGIN_SECONDS
    assert answers == []
    limit, _ = limit_at(HOUR, [HOUR / 2, HOUR / 2])
    assert first_moment(limit) < HOUR, "brought forward: at once"


def test_without_an_end_it_is_never_up():
    assert first_moment(TimeLimit()) is None


def test_slow_steps_fade_and_the_longest_save_counts():
    limit = TimeLimit()
    for seconds in [60.0] + [1.0] * 100:
        limit.observe_step(seconds)
    for seconds in (3.0, 1.0):
        limit.observe_save(seconds)
    assert (limit.step_seconds, limit.save_seconds) == (1.0, 3.0)


def test_the_end_comes_from_the_environment_or_from_slurm(monkeypatch):
    monkeypatch.setattr(time_limit.slurm, "show_job", lambda job_id: {"EndTime": "2000"})
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert of_job("7").end is None
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)
    assert of_job("7").end == 2000 and of_job("debug").end is None
    monkeypatch.setenv("SLURM_JOB_END_TIME", "1900")
    assert of_job("7").end == 1900
    monkeypatch.setattr(time_limit.slurm, "show_job", lambda job_id: {"EndTime": "Unknown"})
    assert time_limit.end_of("7") is None


def test_the_flag_asks_for_a_requeue_and_a_signal_that_came_first_stays():
    preemption = Preemption()
    with keeping(TimeLimit(time.time() - 1), preemption, every_seconds=0.01):
        deadline = time.monotonic() + 10
        while not preemption.flag and time.monotonic() < deadline:
            os.sched_yield()
    assert preemption.flag is Verdict.REQUEUE and preemption.time_is_up and preemption.first_signal
    signalled = Preemption()
    signalled.raise_flag(15)
    signalled.raise_time_limit()
    assert signalled.flag is Verdict.SAVE and not signalled.time_is_up


class UpAfterSixSteps(TimeLimit):
    steps = 0

    def observe_step(self, seconds: float) -> None:
        self.steps += 1

    def is_up(self, now: float) -> bool:
        return self.steps >= 6


def test_a_trial_whose_time_is_up_saves_and_goes_on_where_it_was(tmp_path, monkeypatch):
    run = prepare_run(tmp_path, train={"steps": 20})
    monkeypatch.setattr("runner.rank.of_job", lambda job_id: UpAfterSixSteps(time.time() + HOUR))
    monkeypatch.setattr("runner.faults.SLOW_SECONDS", 2.5)
    outcome, _ = run_rank(run, Place(), redirect=False, proof=Proof((Fault("step.end", "slow", nth=6),)))
    assert outcome.verdict is Verdict.REQUEUE and outcome.step == 6
    end = run.attempt_rows()[-1]
    assert (end["cause"], end["end_step"], end["requeue"]) == ("time limit", 6, True)
    monkeypatch.undo()
    train_here(run)
    assert [row["start_step"] for row in run.attempt_rows() if row["event"] == "start"] == [0, 6]
