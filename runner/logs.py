"""The output of a trial: which file it is in, and following it across attempts."""

import os
import re
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO

from runner.causes import diagnose
from runner.errors import ConfigError, DataError
from runner.evidence import gather, read_crashes, read_tail
from runner.files import read_json
from runner.rundir import RunDir
from runner.signs import SECONDARY, read_log
from runner.status import Ask, read_statuses

POLL_SECONDS = 0.2
ASK_SECONDS = 15.0
"""A followed trial without a final file is asked about this often: a job may end without a word."""

BLOCK_BYTES = 1 << 16

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
        try:
            return _submission_log(run, rank)
        except ConfigError:
            if not there:
                raise
    attempts = sorted({number for number, _ in there})
    chosen = attempt if attempt is not None else attempts[-1]
    ranks = [number for of, number in there if of == chosen]
    if not ranks:
        known = ", ".join(map(str, attempts)) or "none yet"
        raise ConfigError(f"--attempt {chosen}: trial {run.trial} has no log of it; there is: {known}")
    if rank is None:
        failed = find_culprit(run, chosen, failure if chosen == attempts[-1] else {})
        rank = failed if failed in ranks else ranks[0]
    if rank not in ranks:
        known = ", ".join(map(str, ranks))
        raise ConfigError(f"--rank {rank}: attempt {chosen} of trial {run.trial} has no log of it; there is: {known}")
    return run.log(chosen, rank)


def find_culprit(run: RunDir, attempt: int, failure: dict[str, Any]) -> int | None:
    """The rank that brought an attempt to its end, None where nobody can tell; `failure` if the trial ended with it."""
    rows = [row for row in run.attempt_rows() if row["attempt"] == attempt]
    told = [failure.get("rank"), *(row.get("rank") for row in rows if row["event"] == "end")]
    crashes = read_crashes(run, attempt)
    if crashes and not (rows and rows[-1]["event"] == "end"):
        if rows:
            told.append(diagnose(gather(run, rows[-1]["launch"], 1, "RUNNING")).rank)
        told.append(crashes[0]["rank"])
    return next((rank for rank in told if rank is not None), None)


def list_logs(run: RunDir) -> list[tuple[int, int]]:
    """(attempt, rank) of each log in the run folder."""
    names = [path.name for path in run.logs.iterdir()] if run.logs.is_dir() else []
    return sorted((int(match[1]), int(match[2])) for name in names if (match := _NAME.fullmatch(name)))


def print_log(path: Path, out: BinaryIO | None = None, tail: int | None = None) -> None:
    """Print a log, or its last `tail` lines."""
    with path.open("rb") as file:
        if tail is not None:
            file.seek(find_tail(file, tail))
        _copy(file, out or sys.stdout.buffer)


def find_tail(file: BinaryIO, lines: int) -> int:
    """Where the last so many lines of a file begin; reads no more of it than those."""
    at = file.seek(0, os.SEEK_END)
    # A newline at the very end closes the last line and begins none.
    wanted, end = lines + 1, at
    while at > 0 and lines:
        block_at = max(0, at - BLOCK_BYTES)
        file.seek(block_at)
        block = file.read(at - block_at)
        if at == end and not block.endswith(b"\n"):
            wanted -= 1
        place = len(block)
        while wanted and (place := block.rfind(b"\n", 0, place)) >= 0:
            wanted -= 1
        if not wanted:
            return block_at + place + 1
        at = block_at
    return at


def follow_log(
    run: RunDir,
    rank: int | None = None,
    attempt: int | None = None,
    ask: Ask | None = None,
    out: BinaryIO | None = None,
    every_seconds: float = POLL_SECONDS,
    tail: int | None = None,
) -> None:
    """Print a log, or its last `tail` lines, and what is added to it, going on with the next attempt's.

    Until the trial is final; with `attempt`, until the end of that attempt.
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
                first, path, file = path is None, newest, newest.open("rb")
                if first and tail is not None:
                    file.seek(find_tail(file, tail))
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


def _submission_log(run: RunDir, rank: int | None) -> Path:
    """What the job wrote before an attempt started: of stdout and stderr the one that was written to last.

    Without a rank, of that which tells what went wrong, else of rank 0.
    """
    jobs = run.job_rows()
    if not jobs:
        raise ConfigError(f"trial {run.trial}: no log yet; it was never submitted")
    submission, job_id = Path(jobs[-1]["submission"]), str(jobs[-1]["job_id"])
    name = re.escape(job_id)
    if jobs[-1]["cluster"] == "local":
        # The queue gives each launch a number of its own, and only a queue of one trial says whose it is.
        name = r"\d+" if len(_read_lines(submission / "trials.txt")) == 1 else "none"
    pattern = re.compile(rf"{name}_(\d+)_log\.(out|err)")
    files = [path for folder in (submission, submission / "jobs") for path in folder.glob("*_log.*")]
    paths = {path: int(match[1]) for path in files if (match := pattern.fullmatch(path.name)) and path.stat().st_size}
    chosen = [path for path, own in paths.items() if own == (rank or 0)]
    if rank is None:
        chosen = _telling(sorted(paths, key=lambda path: (path.stat().st_mtime, paths[path]))) or chosen
    queue_log = submission / "queue.log"
    if not chosen and queue_log.exists() and queue_log.stat().st_size:
        return queue_log
    if not chosen:
        raise ConfigError(f"trial {run.trial}: no log yet; job {job_id} has written nothing to {submission}")
    return max(chosen, key=lambda path: path.stat().st_mtime)


def _telling(paths: list[Path]) -> list[Path]:
    """Of logs, the first to end first, that which tells of a failure, rather than one that tells of a peer's."""
    told = {path: read_log(read_tail(path)).cause for path in paths}
    own = [path for path, cause in told.items() if cause not in (None, *SECONDARY)]
    return (own or [path for path, cause in told.items() if cause is not None])[:1]


def _read_lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []
