"""The output of a trial: which file it is in, and following it across attempts."""

import re
import sys
import time
from pathlib import Path
from typing import BinaryIO

from runner.errors import ConfigError, DataError
from runner.files import read_json
from runner.rundir import RunDir
from runner.status import Ask, read_statuses

POLL_SECONDS = 0.2
ASK_SECONDS = 15.0
"""A followed trial without a final file is asked about this often: a job may end without a word."""

_NAME = re.compile(r"attempt_(\d+)\.rank_(\d+)\.log")


def find_log(run: RunDir, rank: int | None = None, attempt: int | None = None) -> Path:
    """The log of a rank of an attempt: by default the last attempt, and rank 0 or the rank that failed first.

    Where no attempt started, that is what the job wrote. Raises: ConfigError when there is no such log.
    """
    there = list_logs(run)
    try:
        failure = read_json(run.failure) or {}
    except ValueError as error:
        raise DataError(str(error)) from None
    if attempt is None and (not there or failure.get("cause") == "launch failed"):
        return _submission_log(run, rank or 0)
    attempts = sorted({number for number, _ in there})
    chosen = attempt if attempt is not None else attempts[-1]
    ranks = [number for of, number in there if of == chosen]
    if not ranks:
        known = ", ".join(map(str, attempts)) or "none yet"
        raise ConfigError(f"--attempt {chosen}: trial {run.trial} has no log of it; there is: {known}")
    if rank is None:
        failed = failure.get("rank") if chosen == attempts[-1] else None
        rank = failed if failed in ranks else ranks[0]
    if rank not in ranks:
        known = ", ".join(map(str, ranks))
        raise ConfigError(f"--rank {rank}: attempt {chosen} of trial {run.trial} has no log of it; there is: {known}")
    return run.log(chosen, rank)


def list_logs(run: RunDir) -> list[tuple[int, int]]:
    """(attempt, rank) of each log in the run folder."""
    names = [path.name for path in run.logs.iterdir()] if run.logs.is_dir() else []
    return sorted((int(match[1]), int(match[2])) for name in names if (match := _NAME.fullmatch(name)))


def print_log(path: Path, out: BinaryIO | None = None) -> None:
    out = out or sys.stdout.buffer
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            out.write(block)
    out.flush()


def follow_log(
    run: RunDir,
    rank: int | None = None,
    attempt: int | None = None,
    ask: Ask | None = None,
    out: BinaryIO | None = None,
    every_seconds: float = POLL_SECONDS,
) -> None:
    """Print a log and what is added to it, going on with the next attempt's, until the trial is final.

    With `attempt`, until the end of that attempt.
    """
    out = out or sys.stdout.buffer
    path: Path | None = None
    file: BinaryIO | None = None
    asked = time.monotonic()
    try:
        while True:
            # Ask before reading: what was written before the end is then still read.
            over = _is_over(run, attempt)
            if not over and time.monotonic() - asked > ASK_SECONDS:
                asked, over = time.monotonic(), read_statuses([run], ask)[0].settled
            newest = _try_find(run, rank, attempt)
            if file is not None:
                _copy(file, out)
            if newest is not None and newest != path:
                if file is not None:
                    file.close()
                    out.write(f"==> {newest.name} <==\n".encode())
                path, file = newest, newest.open("rb")
                _copy(file, out)
            if over:
                break
            time.sleep(every_seconds)
    finally:
        if file is not None:
            file.close()
    if path is None:
        find_log(run, rank, attempt)


def _is_over(run: RunDir, attempt: int | None) -> bool:
    if run.result.exists() or run.failure.exists() or run.cancelled.exists():
        return True
    return attempt is not None and any(
        row["attempt"] > attempt or (row["attempt"] == attempt and row["event"] == "end") for row in run.attempt_rows()
    )


def _try_find(run: RunDir, rank: int | None, attempt: int | None) -> Path | None:
    try:
        return find_log(run, rank, attempt)
    except ConfigError:
        return None


def _copy(file: BinaryIO, out: BinaryIO) -> None:
    while block := file.read(1 << 20):
        out.write(block)
    out.flush()


def _submission_log(run: RunDir, rank: int) -> Path:
    """What the job wrote before an attempt started: of stdout and stderr the one that was written to last."""
    jobs = run.job_rows()
    if not jobs:
        raise ConfigError(f"trial {run.trial}: no log yet; it was never submitted")
    submission, job_id = Path(jobs[-1]["submission"]), str(jobs[-1]["job_id"])
    folders = (submission, submission / "jobs")
    names = [job_id]
    if jobs[-1]["cluster"] == "local":
        # The queue gives each launch a number of its own, and only a queue of one trial says whose it is.
        names = ["*"] if len(_read_lines(submission / "trials.txt")) == 1 else []
    paths = [path for folder in folders for name in names for path in folder.glob(f"{name}_{rank}_log.*")]
    written = [path for path in [*paths, submission / "queue.log"] if path.exists() and path.stat().st_size]
    if not written:
        raise ConfigError(f"trial {run.trial}: no log yet; job {job_id} has written nothing to {submission}")
    return max(written, key=lambda path: (path.name != "queue.log", path.stat().st_mtime))


def _read_lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []
