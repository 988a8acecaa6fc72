"""Jobs of submissions that were cut off: found by their script, each trial given one of them at most."""

from pathlib import Path

import pytest

from runner import slurm
from runner.errors import SubmissionError
from runner.files import append_row
from runner.orphans import settle_orphans
from runner.rundir import RunDir
from runner.submission import GIVEN_UP, SubmissionDir


class Queue:
    """What Slurm has: the script of each job."""

    def __init__(self) -> None:
        self.jobs: dict[str, str] = {}
        self.cancelled: list[str] = []
        self.silent = False

    def scripts(self) -> dict[str, str]:
        if self.silent:
            raise SubmissionError("squeue: Unable to contact slurm controller")
        return self.jobs

    def cancel(self, job_ids) -> None:
        self.cancelled += job_ids


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> Queue:
    queue = Queue()
    monkeypatch.setattr(slurm, "scripts", queue.scripts)
    monkeypatch.setattr(slurm, "cancel", queue.cancel)
    return queue


@pytest.fixture
def submission(tmp_path: Path) -> SubmissionDir:
    """Two trials that were sent, as far as the folder tells."""
    submission = SubmissionDir(tmp_path / ".submissions" / "x")
    submission.jobs.mkdir(parents=True)
    submission.pickle.touch()
    runs = [RunDir(tmp_path / name) for name in "ab"]
    for run in runs:
        run.path.mkdir()
        run.config.touch()
    submission.manifest.write_text("".join(f"{run.path}\n" for run in runs))
    return submission


def ids(submission: SubmissionDir) -> list[list[str]]:
    return [[row["job_id"] for row in run.job_rows()] for run in submission.members()]


def test_jobs_that_nobody_wrote_down_are_their_trials_once(submission, queue, tmp_path):
    script = str(submission.script)
    queue.jobs = {"7_0": script, "7_1": script, "9_0": "/elsewhere/array.sh"}
    assert settle_orphans(tmp_path) == [
        "a: job 7_0 of a submission that was cut off is its",
        "b: job 7_1 of a submission that was cut off is its",
    ]
    assert ids(submission) == [["7_0"], ["7_1"]] and submission.read_number() == "7"
    assert settle_orphans(tmp_path) == [] and ids(submission) == [["7_0"], ["7_1"]]
    assert queue.cancelled == []


def test_a_run_root_may_be_reached_by_a_link(submission, queue, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    queue.jobs = {"7_0": str(tmp_path / "link" / ".submissions" / "x" / "array.sh")}
    assert settle_orphans(tmp_path) == ["a: job 7_0 of a submission that was cut off is its"]
    queue.jobs["7_1"] = str(submission.script)
    assert settle_orphans(tmp_path / "link") == ["b: job 7_1 of a submission that was cut off is its"]
    assert ids(submission) == [["7_0"], ["7_1"]] and queue.cancelled == []


def test_of_rows_that_a_power_cut_took_away_the_jobs_are_found_again(submission, queue, tmp_path):
    submission.number.write_text("7\n")
    run = submission.members()[0]
    append_row(run.jobs, {"time": 0, "submission": str(submission.path), "cluster": "slurm", "job_id": "7_0"})
    queue.jobs = {"7_0": str(submission.script), "7_1": str(submission.script)}
    assert len(settle_orphans(tmp_path)) == 1
    assert ids(submission) == [["7_0"], ["7_1"]]


def test_of_two_arrays_of_one_script_one_is_cancelled(submission, queue, tmp_path):
    queue.jobs = {f"{array}_{index}": str(submission.script) for array in (7, 8) for index in (0, 1)}
    settle_orphans(tmp_path)
    assert ids(submission) == [["7_0"], ["7_1"]] and queue.cancelled == ["8_0", "8_1"]


def test_a_trial_that_was_submitted_again_does_not_get_its_old_job_back(submission, queue, tmp_path):
    run = submission.members()[1]
    later = submission.manifest.stat().st_mtime + 1
    append_row(run.jobs, {"time": later, "submission": "another", "cluster": "slurm", "job_id": "9"})
    queue.jobs = {"7_0": str(submission.script), "7_1": str(submission.script)}
    settle_orphans(tmp_path)
    assert ids(submission) == [["7_0"], ["9"]] and queue.cancelled == ["7_1"]


def test_a_submission_that_slurm_does_not_have_is_given_up(submission, queue, tmp_path):
    """A job of it that arrives later ends at once, since its number is not that."""
    assert settle_orphans(tmp_path) == []
    assert submission.read_number() == GIVEN_UP
    queue.jobs = {"7_0": str(submission.script)}
    assert settle_orphans(tmp_path) == [] and ids(submission) == [[], []]


def test_a_job_without_anything_to_run_is_cancelled(submission, queue, tmp_path):
    submission.pickle.unlink()
    queue.jobs = {"7_0": str(submission.script)}
    assert settle_orphans(tmp_path) == ["job 7_0 of a submission that was cut off is cancelled"]
    assert queue.cancelled == ["7_0"]


def test_where_slurm_does_not_answer_nothing_is_done(submission, queue, tmp_path):
    queue.silent = True
    assert settle_orphans(tmp_path) == [] and submission.read_number() is None
