"""Which log is shown, and that following loses and repeats nothing across attempts."""

import io
import threading
import traceback
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.attempt import claim
from runner.budgets import POLICIES
from runner.errors import ConfigError
from runner.files import append_row, write_json
from runner.logs import find_log, find_tail, follow_log, print_log
from runner.requeue import judge
from runner.status import Job
from runner.watchdog import HangError
from runner.wording import BY_ERRNO, BY_TEXT, BY_TYPE
from tests.slurm_cluster import wait_for
from tests.trials import end, make_trial, slurm_job, start

HEAD = 'Traceback (most recent call last):\n  File "x.py", line 1, in f\n    f()\n'


def write_logs(run, *places):
    for attempt, rank in places:
        run.log(attempt, rank).write_text(f"attempt {attempt} rank {rank}\n")


def test_last_attempt_and_rank_0_unless_said(tmp_path):
    run = make_trial(tmp_path, "a")
    write_logs(run, (1, 0), (1, 1), (2, 0), (2, 1), (10, 0), (10, 1))
    assert find_log(run) == run.log(10, 0)
    assert find_log(run, rank=1) == run.log(10, 1)
    assert find_log(run, attempt=2) == run.log(2, 0)
    assert find_log(run, rank=1, attempt=1) == run.log(1, 1)


def test_a_failed_trial_shows_the_rank_that_failed_first(tmp_path):
    run = make_trial(tmp_path, "a", failure={"cause": "user code", "rank": 1, "error": "x"})
    write_logs(run, (1, 0), (1, 1), (2, 0), (2, 1))
    assert find_log(run) == run.log(2, 1)
    assert find_log(run, rank=0) == run.log(2, 0)
    assert find_log(run, attempt=1) == run.log(1, 0)


def test_errors_say_what_there_is(tmp_path):
    run = make_trial(tmp_path, "a")
    with pytest.raises(ConfigError, match="trial a: no log yet; it was never submitted"):
        find_log(run)
    write_logs(run, (1, 0), (1, 1))
    with pytest.raises(ConfigError, match=r"--attempt 3: trial a has no log of it; there is: 1"):
        find_log(run, attempt=3)
    with pytest.raises(ConfigError, match=r"--rank 7: attempt 1 of trial a has no log of it; there is: 0, 1"):
        find_log(run, rank=7)


def test_before_the_first_attempt_it_is_what_the_job_wrote(tmp_path):
    run = make_trial(tmp_path, "a", job=slurm_job("7_0"))
    with pytest.raises(ConfigError, match="job 7_0 has written nothing"):
        find_log(run)
    jobs = tmp_path / "s" / "jobs"
    jobs.mkdir(parents=True)
    (jobs / "7_0_0_log.out").write_text("")
    (jobs / "7_0_0_log.err").write_text("python: not found\n")
    (jobs / "7_1_0_log.err").write_text("of another trial\n")
    assert find_log(run) == jobs / "7_0_0_log.err"
    out = io.BytesIO()
    print_log(find_log(run), out)
    assert out.getvalue() == b"python: not found\n"


def test_a_launch_that_failed_after_good_attempts(tmp_path):
    run = make_trial(
        tmp_path, "a", job=slurm_job("7_0"), failure={"cause": "launch failed", "rank": None, "error": "x"}
    )
    write_logs(run, (1, 0))
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "7_0_0_log.err").write_text("no module\n")
    assert find_log(run) == tmp_path / "s" / "7_0_0_log.err"
    assert find_log(run, attempt=1) == run.log(1, 0)


def test_a_local_queue_with_several_trials_shows_its_own_log(tmp_path):
    job = {"cluster": "local", "job_id": "local-99", "pid": 99}
    run = make_trial(tmp_path, "a", job=job)
    jobs = tmp_path / "s" / "jobs"
    jobs.mkdir(parents=True)
    (jobs / "500_0_log.err").write_text("boom\n")
    (tmp_path / "s" / "queue.log").write_text("a: fail, launch failed\n")
    (tmp_path / "s" / "trials.txt").write_text(f"{run.path}\n")
    assert find_log(run) == jobs / "500_0_log.err"
    (tmp_path / "s" / "trials.txt").write_text(f"{run.path}\nanother\n")
    assert find_log(run) == tmp_path / "s" / "queue.log"


def lose(attempt, rank: int, cause: str, error: Exception) -> None:
    """A rank of an attempt leaves word of its end, and its traceback in its log."""
    try:
        raise error
    except Exception as raised:
        type(attempt)(attempt.run, attempt.number, rank).record_crash(raised, cause, step=7)
        attempt.run.log(attempt.number, rank).write_text("".join(traceback.format_exception(raised)))


CAUSES = {*POLICIES, *BY_TYPE.values(), *BY_ERRNO.values(), *(cause for cause, _ in BY_TEXT), "user code"}
OF_ONE_RANK = sorted(CAUSES - {"peer crash", "launch failed"})


@pytest.mark.parametrize("cause", OF_ONE_RANK)
@pytest.mark.parametrize("judged", [True, False])
def test_of_every_class_of_failure_the_log_of_the_rank_that_failed_first(tmp_path, cause, judged):
    run = make_trial(tmp_path, "a", job=slurm_job("7_0"))
    for _ in range(2):
        attempt = claim(run)
        attempt.record_start(job_id="7_0", launch=f"7_0.{attempt.number}", world=3, step=0, steps=9, resumed_from=None)
    for rank in (0, 1):
        lose(attempt, rank, "peer crash", RuntimeError("Connection closed by peer"))
    if cause == "hang":
        lose(attempt, 2, cause, HangError("rank 2 made no step"))
    elif cause != "killed":
        lose(attempt, 2, cause, ValueError("of rank 2"))
    write_logs(run, (1, 0), (1, 1), (1, 2), (2, 2))
    if judged:
        judge(run, "7_0.2", 1, "RUNNING", 0)
    assert find_log(run) == run.log(2, 2)
    assert find_log(run, attempt=1) == run.log(1, 0)


def test_before_the_first_attempt_it_is_the_rank_that_tells_why(tmp_path):
    run = make_trial(tmp_path, "a", job=slurm_job("7_0"))
    jobs = tmp_path / "s" / "jobs"
    jobs.mkdir(parents=True)
    (jobs / "7_0_0_log.err").write_text(f"{HEAD}RuntimeError: Connection closed by peer\n")
    (jobs / "7_0_1_log.out").write_text("hello\n")
    (jobs / "7_0_2_log.err").write_text(f"{HEAD}ModuleNotFoundError: No module named 'runner'\n")
    (jobs / "7_0_10_log.err").write_text(f"{HEAD}RuntimeError: Connection closed by peer\n")
    assert find_log(run) == jobs / "7_0_2_log.err"
    assert find_log(run, rank=1) == jobs / "7_0_1_log.out"


@given(lines=st.lists(st.text("ab", max_size=9), max_size=40), tail=st.integers(0, 45), torn=st.booleans())
def test_the_last_lines_are_the_last_lines(lines, tail, torn):
    text = "\n".join(lines) + ("" if torn or not lines else "\n")
    with pytest.MonkeyPatch.context() as patch, io.BytesIO(text.encode()) as file:
        patch.setattr("runner.logs.BLOCK_BYTES", 8)
        file.seek(find_tail(file, tail))
        shown = file.read().decode()
    expected = text.splitlines(keepends=True)
    assert shown == "".join(expected[len(expected) - min(tail, len(expected)) :])


class Following:
    """follow_log in a thread, with what it has printed so far."""

    def __init__(self, run, **options):
        self.out = io.BytesIO()
        options = {
            "out": self.out,
            "every_seconds": 0.01,
            "ask": lambda ids: {ids[0]: Job("running")},
            **options,
        }
        self.thread = threading.Thread(target=follow_log, args=(run,), kwargs=options)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.thread.join(20)
        assert not self.thread.is_alive()

    def wait_for(self, text: str):
        wait_for(lambda: self.out.getvalue().decode(), 20, text, until=lambda printed: printed.endswith(text))


def append(path: Path, text: str):
    with path.open("a") as file:
        file.write(text)


def test_following_goes_from_attempt_to_attempt_until_the_end(tmp_path):
    run = make_trial(tmp_path, "a", job=slurm_job())
    with Following(run) as following:
        append(run.log(1, 0), "one\n")
        following.wait_for("one\n")
        append(run.log(1, 0), "two\n")
        following.wait_for("two\n")
        append(run.log(2, 0), "three\n")
        following.wait_for("three\n")
        append(run.log(2, 0), "the end\n")
        write_json(run.result, {"state": "done", "step": 1, "metrics": {}})
    assert following.out.getvalue().decode() == "one\ntwo\n==> attempt_002.rank_0.log <==\nthree\nthe end\n"


def test_following_from_the_last_lines_on(tmp_path):
    run = make_trial(tmp_path, "a", job=slurm_job())
    append(run.log(1, 0), "one\ntwo\n")
    with Following(run, tail=1) as following:
        following.wait_for("two\n")
        append(run.log(2, 0), "three\nfour\n")
        following.wait_for("four\n")
        write_json(run.result, {"state": "done", "step": 1, "metrics": {}})
    assert following.out.getvalue().decode() == "two\n==> attempt_002.rank_0.log <==\nthree\nfour\n"


def test_following_one_attempt_ends_with_it(tmp_path):
    run = make_trial(tmp_path, "a", job=slurm_job(), attempts=[start(1)])
    append(run.log(1, 0), "one\n")
    with Following(run, attempt=1) as following:
        following.wait_for("one\n")
        append(run.log(1, 0), "saved\n")
        append_row(run.attempts, end(1, 5, "preempted", requeue=True))
    assert following.out.getvalue() == b"one\nsaved\n"


def test_following_ends_when_the_job_is_gone_without_a_word(tmp_path, monkeypatch):
    monkeypatch.setattr("runner.logs.ASK_SECONDS", 0.05)
    run = make_trial(tmp_path, "a", job=slurm_job(), attempts=[start(1)])
    append(run.log(1, 0), "one\n")
    with Following(run, ask=lambda ids: {}) as following:
        pass
    assert following.out.getvalue() == b"one\n"


def test_following_a_trial_that_ended_without_a_log(tmp_path):
    run = make_trial(tmp_path, "a", cancelled=True)
    with pytest.raises(ConfigError, match="no log yet"):
        follow_log(run, out=io.BytesIO())
