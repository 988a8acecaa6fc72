"""Whose a trial is: a queue, or a job that holds several trials, looks before it starts one and while it runs."""

import contextlib
from pathlib import Path

from runner.files import read_json, write_json
from runner.rundir import RunDir
from runner.submission import SubmissionDir, is_row_of


def is_ours(run: RunDir, submission: Path) -> bool:
    """Whether a trial is still this queue's: not cancelled, and not submitted anew since."""
    if run.cancelled.exists():
        return False
    rows = run.job_rows()
    if any(is_row_of(row, submission) for row in rows):
        return is_row_of(rows[-1], submission)
    # A job of a cluster may start before its submission has written down which job it is.
    return not rows or bool(rows[-1]["time"] <= SubmissionDir(submission).manifest.stat().st_mtime)


def is_over(run: RunDir) -> bool:
    """Whether a trial is done or has failed for good."""
    return run.result.exists() or run.failure.exists()


def let_go(run: RunDir, submission: Path) -> None:
    """Leave word that this queue will not touch a cancelled trial any more, however long it goes on with others."""
    with contextlib.suppress(ValueError):
        cancelled, newest = read_json(run.cancelled), run.job_rows()[-1]
        if cancelled is not None and is_row_of(newest, submission):
            write_json(run.cancelled, {**cancelled, "let_go": newest["submission"]})


def back_off_seconds(run: RunDir, now: float) -> float:
    """How much longer a trial waits after a crash that another process saw; `now` in unix seconds."""
    rows, jobs = run.attempt_rows(), run.job_rows()
    if not rows or rows[-1]["event"] != "end" or not rows[-1]["requeue"]:
        return 0.0
    ended, delay = float(rows[-1]["time"]), float(rows[-1].get("delay_seconds") or 0)
    if jobs and ended < jobs[-1]["time"]:
        return 0.0
    return max(ended + delay - now, 0.0)
