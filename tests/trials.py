"""Run folders as the runner leaves them, for tests of what reads them back."""

import json
import os
import time
from pathlib import Path
from typing import Any

from runner.files import append_row, write_json, write_yaml
from runner.rundir import RunDir

SUBMITTED = 1_700_000_000.0
"""Unix seconds of the submission of every made trial; its rows follow a second apart."""


def make_trial(
    root: Path,
    trial: str,
    experiment: str = "exp",
    *,
    overrides: dict[str, Any] | None = None,
    job: dict[str, Any] | None = None,
    attempts: list[dict[str, Any]] | None = None,
    metrics: list[dict[str, Any]] | None = None,
    result: dict[str, float] | None = None,
    failure: dict[str, Any] | None = None,
    cancelled: bool = False,
    checkpoints: list[str] | None = None,
) -> RunDir:
    """A trial of 500 steps; `result` are its final metrics."""
    run = RunDir(root / experiment / trial)
    run.logs.mkdir(parents=True)
    write_yaml(run.config, {"name": experiment, "train": {"steps": 500}, **(overrides or {})})
    write_yaml(run.overrides, overrides or {})
    write_json(run.provenance, {"command": "runner submit x.yaml", "git": None, "host": "h", "user": "u"})
    for rows, path in ((attempts, run.attempts), (metrics, run.metrics)):
        if rows:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if job is not None:
        append_row(run.jobs, {"time": SUBMITTED, "host": os.uname().nodename, "submission": str(root / "s"), **job})
    if result is not None:
        write_json(run.result, {"state": "done", "step": 500, "metrics": result, "fingerprint": "0", "seconds": {}})
    if failure is not None:
        write_json(run.failure, failure)
    if cancelled:
        write_json(run.cancelled, {"time": time.time()})
    for name in checkpoints or []:
        (run.checkpoints / name).mkdir(parents=True)
        (run.checkpoints / name / "manifest.json").touch()
    return run


def slurm_job(job_id: str = "7_0") -> dict[str, Any]:
    return {"cluster": "slurm", "job_id": job_id, "pid": None, "pid_created": None}


def local_job(pid: int, created: float | None = None) -> dict[str, Any]:
    return {"cluster": "local", "job_id": f"local-{pid}", "pid": pid, "pid_created": created}


def start(attempt: int, step: int = 0, at: float = 1) -> dict[str, Any]:
    """The start row of an attempt, `at` seconds after the submission."""
    facts = {
        "job_id": "7_0",
        "host": "node1",
        "world_size": 2,
        "start_step": step,
        "steps": 500,
        "resumed_from": None,
    }
    return {"event": "start", "attempt": attempt, "time": SUBMITTED + at, **facts}


def end(
    attempt: int, step: int | None, cause: str, requeue: bool = False, at: float = 2, **more: Any
) -> dict[str, Any]:
    """The end row of an attempt."""
    facts = {"end_step": step, "cause": cause, "requeue": requeue, "signal_to_saved_seconds": None, **more}
    return {"event": "end", "attempt": attempt, "time": SUBMITTED + at, **facts}
