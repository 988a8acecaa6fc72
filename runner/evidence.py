"""What a launch that ended left behind: the crash files of its ranks, and the ends of its logs."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runner.causes import Crash, Evidence
from runner.files import read_json
from runner.rundir import RunDir

TAIL_BYTES = 16 * 1024
"""Of each log; the last words are at its end."""


def mark(launch: str) -> str:
    """The line with which a launch begins in a log that the launches of a job share."""
    return f"runner: launch {launch}"


def split_launch(launch: str) -> tuple[str, int]:
    """The job of a launch, and how often it had been started again; where it holds several trials, more follows."""
    job, _, rest = launch.partition(".")
    return job, int(rest.partition(".")[0] or 0)


def gather(run: RunDir, launch: str, exit_code: int, job_state: str, logs: Path | None = None) -> Evidence:
    """Everything the run folder tells about the end of a launch; `logs` is where its jobs print."""
    attempt = attempt_of(run, launch)
    begun = [row for row in run.attempt_rows() if row["event"] == "start" and row["launch"] == launch]
    facts = begun[-1] if begun else {}
    texts = list(read_tails(logs, launch)) if logs is not None else []
    if attempt is not None:
        texts += [read_tail(path) for path in sorted(run.logs.glob(f"attempt_{attempt:03d}.rank_*.log"))]
    return Evidence(
        exit_code,
        job_state,
        started=bool(begun),
        crashes=tuple(_crash(crash) for crash in read_crashes(run, attempt)) if attempt is not None else (),
        world=facts.get("world_size"),
        hosts=tuple(facts.get("nodes", ())) or _own_node(),
        log="\n".join(texts),
    )


def _own_node() -> tuple[str, ...]:
    """The node of a job that has only one, as Slurm tells its batch script."""
    node = os.environ.get("SLURMD_NODENAME")
    return (node,) if node and os.environ.get("SLURM_JOB_NUM_NODES") == "1" else ()


def attempt_of(run: RunDir, launch: str) -> int | None:
    """The last attempt of a launch; None when the launch ended before it had one."""
    numbers = [row["attempt"] for row in run.attempt_rows() if row["event"] == "start" and row["launch"] == launch]
    note = read_json(run.launch_note(launch))
    return max(numbers + ([note["attempt"]] if note else []), default=None)


def last_attempt(run: RunDir) -> int:
    """The newest attempt of all, 0 when there is none."""
    return max((int(path.name) for path in (run.path / "tokens").glob("[0-9]*")), default=0)


def read_crashes(run: RunDir, attempt: int) -> list[dict[str, Any]]:
    """What the ranks of an attempt left when they died, first death first; a file that is torn is left out.

    A rank that only lost its peer names no cause of its own; it counts after those that do.
    """
    found = []
    for path in run.token(attempt).glob("crash.rank_*.json"):
        try:
            found.append(read_json(path))
        except ValueError:
            continue
    crashes = [crash for crash in found if crash is not None]
    return sorted(crashes, key=lambda crash: (crash["cause"] == "peer crash", crash["time"]))


def told_saved(run: RunDir, attempt: int) -> int:
    """The step of the last checkpoint that an attempt wrote or resumed from, by what lies outside of `checkpoints`."""
    steps = [saved_step(run, attempt) or 0]
    for row in run.attempt_rows():
        if row["attempt"] == attempt and row["event"] == "start":
            steps.append(row["start_step"])
        elif row["attempt"] == attempt and row.get("signal_to_saved_seconds") is not None:
            steps.append(row["end_step"])
    return int(max(steps))


def has_checkpoint(run: RunDir) -> bool:
    """Whether there is any, whole or not."""
    return run.checkpoints.is_dir() and any(name.startswith("step_") for name in os.listdir(run.checkpoints))


def saved_step(run: RunDir, attempt: int | None) -> int | None:
    """The step of the newest checkpoint that an attempt is known to have written."""
    if attempt is None:
        return None
    try:
        note = read_json(run.saved(attempt))
    except ValueError:
        return None
    return None if note is None else int(note["step"])


def read_tails(folder: Path, launch: str) -> Iterator[str]:
    """What each task of a launch, srun and the batch script printed last to the job's own files."""
    job, restarts = split_launch(launch)
    # A trial of a job that holds several has logs by the process that holds its ranks, the third part.
    marks = {job: f"{job}.{restarts}", **{name: launch for name in launch.split(".")[2:]}}
    for name, own in marks.items():
        for path in sorted(folder.glob(f"{name}_*_log.err")):
            if re.fullmatch(rf"{re.escape(name)}_\d+_log\.err", path.name):
                yield read_tail(path, own)


def read_tail(path: Path, launch: str | None = None) -> str:
    """The end of a log; with `launch`, only what that launch of several printed."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    if launch is None:
        return text
    before, found, after = text.rpartition(f"{mark(launch)}\n")
    if found:
        return after
    # Its mark has scrolled away unless another launch's stands there.
    return "" if size <= TAIL_BYTES or "runner: launch " in before + after else text


def _crash(document: dict[str, Any]) -> Crash:
    keys = ("rank", "cause", "error", "time", "step", "signature")
    return Crash(**{key: document[key] for key in keys if key in document})
