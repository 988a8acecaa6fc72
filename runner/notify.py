"""Word of the end of a trial, and of a whole sweep: the command `notify` of the profile, run once for each.

Whoever sees the end runs this: the batch script when its ranks are gone, the local queue when it lets go of a trial.
A job that ended without a word is told of by those after it, and by `--wait` and `--watch`. A file that only one of
them can make decides who does, so nothing is told twice; a trial that is retried may end, and be told of, once more.
"""

import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from runner.errors import ConfigError
from runner.files import check_private, masked, read_json
from runner.masking import mask_text
from runner.profile import load_profile
from runner.rundir import RunDir
from runner.status import STATES, Row, read_statuses
from runner.submission import SUBMISSIONS, SubmissionDir, is_row_of

TIMEOUT_SECONDS = 60
"""For the command; then it is killed."""

FEW = 8
"""Only about so many trials without a final file is a scheduler asked whether they have ended without a word."""

OUTPUT_BYTES = 64 * 1024
LOG = "notify.log"


def tell(run: RunDir, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
    """Run the command if the trial has ended for good, and once more if the whole sweep has."""
    command = command_of(run)
    if command is None:
        return
    if (end := read_end(run)) is not None and end[0] != "cancelled":
        tell_trial(run, command, *end, timeout_seconds)
    lost = find_lost(run.path.parent)
    if lost is None:
        return
    for row in lost:
        tell_lost(row, timeout_seconds)
    tell_sweep(run.path.parent, command, timeout_seconds)


def tell_ended(rows: Iterable[Row]) -> None:
    """Tell of what nobody was left to tell of, now that somebody has waited for all of these trials."""
    for row in rows:
        if row.settled and not row.record.is_final:
            # Others may look at a run root, too, but not into its submissions.
            with suppress(ConfigError, OSError):
                tell(row.run)


def read_end(run: RunDir) -> tuple[str, str] | None:
    """(state, cause) of a trial that is over by its files, None otherwise."""
    if run.result.exists():
        return "done", "done"
    if run.cancelled.exists():
        return "cancelled", "cancelled"
    try:
        failure = read_json(run.failure)
    except ValueError:
        failure = {}
    return None if failure is None else ("failed", str(failure.get("cause", "unknown")))


def command_of(run: RunDir) -> str | None:
    """What the profile says that the trial was submitted with last. Raises ConfigError if others can write there."""
    jobs = run.job_rows()
    if not jobs:
        return None
    submission = Path(jobs[-1]["submission"])
    check_private(submission, submission.parents[2])
    return load_profile(submission / "profile.yaml").notify


def find_lost(folder: Path) -> list[Row] | None:
    """Trials of an experiment that ended without a word, now that all have ended; None while any goes on.

    What has not been submitted yet is still to come.
    """
    left: list[RunDir] = []
    for run in _trials(folder):
        if read_end(run) is None:
            left.append(run)
        if len(left) > FEW:
            return None
    rows = read_statuses(left)
    return rows if all(row.settled and row.state != "pending" for row in rows) else None


def tell_lost(row: Row, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
    """Tell of a trial whose job is gone, with what the scheduler says; nobody will submit it again by itself."""
    command = command_of(row.run)
    if command is not None and row.state in ("failed", "unknown"):
        tell_trial(row.run, command, "failed", row.note, timeout_seconds)


def tell_trial(run: RunDir, command: str, state: str, cause: str, timeout_seconds: float) -> None:
    """Run the command for one trial, unless that was done for its last submission."""
    submission = Path(run.job_rows()[-1]["submission"])
    facts = {"EVENT": "trial", "EXPERIMENT": run.experiment, "TRIAL": run.trial, "STATE": state, "CAUSE": cause}
    with masked(run.umask()):
        if _claim(run.path / f"notified.{submission.name}"):
            call(command, facts | {"FOLDER": str(run.path)}, run.logs / LOG, timeout_seconds)


def tell_sweep(folder: Path, command: str, timeout_seconds: float) -> None:
    """Run the command for a whole experiment, unless that was done for these trials and their submissions."""
    states, digest, runs = Counter[str](), hashlib.sha256(), list(_trials(folder))
    for run in runs:
        end = read_end(run)
        states[end[0] if end is not None else "failed"] += 1
        jobs = run.job_rows()
        digest.update(f"{run.trial} {jobs[-1]['submission'] if jobs else ''}\n".encode())
    state = next(state for state in ("failed", "done", "cancelled") if states[state])
    counts = ", ".join(f"{states[state]} {state}" for state in STATES if states[state])
    facts = {"EVENT": "sweep", "EXPERIMENT": folder.name, "TRIAL": "", "STATE": state, "CAUSE": counts}
    with masked(runs[0].umask()):
        if _claim(folder / SUBMISSIONS / f"notified.{digest.hexdigest()[:16]}"):
            call(command, facts | {"FOLDER": str(folder)}, folder / SUBMISSIONS / LOG, timeout_seconds)


def call(command: str, facts: dict[str, str], log: Path, timeout_seconds: float) -> None:
    """Run a shell command with RUNNER_EVENT and so on in its environment, and add what it prints to a log.

    Nothing of the trial stands in the command itself, so no name can become a part of it. Whatever it does, this
    returns within the time-out; a log that cannot be written is told on stderr.
    """
    environment = os.environ | {f"RUNNER_{name}": _plain(value) for name, value in facts.items()}
    # A file, since a pipe may be held open by whatever the command leaves behind.
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            ["/bin/sh", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=facts["FOLDER"],
            env=environment,
            start_new_session=True,
        )
        try:
            ended = f"exit code {process.wait(timeout_seconds)}"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            ended = f"killed after {timeout_seconds} s"
        output.seek(max(output.seek(0, os.SEEK_END) - OUTPUT_BYTES, 0))
        text = mask_text(output.read().decode(errors="replace"))
    head = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {facts['EVENT']} {facts['STATE']}: {ended}"
    try:
        # A trial that failed before any of its ranks started has no folder of logs.
        log.parent.mkdir(exist_ok=True)
        with log.open("a") as file:
            file.write(f"{head}\n{text}")
    except OSError as error:
        print(f"runner: {log}: {error.strerror}", file=sys.stderr)


def _claim(marker: Path) -> bool:
    """Make a file that did not exist; of several at once one succeeds."""
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o640))
    except FileExistsError:
        return False
    return True


def _trials(folder: Path) -> Iterator[RunDir]:
    """The trials of an experiment; looks at one after the other, since most callers stop early."""
    for name in sorted(os.listdir(folder)):
        if name[0] != "." and (folder / name / "config.yaml").exists():
            yield RunDir(folder / name)


def _plain(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)


def main(submission: Path, index: int) -> None:
    """For the batch script and the local queue: tell of the trials of this element of a submission that are over."""
    try:
        check_private(submission, submission.parents[2])
    except ConfigError as error:
        sys.exit(f"runner: {error}")
    for run in SubmissionDir(submission).elements()[index]:
        # A job may end before its submission has written down which job it is.
        if any(is_row_of(row, submission) for row in run.job_rows()[-1:]):
            tell(run)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
