"""Whether a trial that stopped goes on: one pure decision, taken inside the job when a rank died.

Slurm requeues preempted jobs and jobs of dead nodes by itself, and rank 0 requeues a job it could save. What is left
is a rank that was killed or crashed: Slurm calls the job FAILED and forgets it. The batch script's EXIT trap runs
this module (no torch, no submitit: it must answer within KillWait), and so does the local queue.
"""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

from runner import slurm
from runner.errors import SubmissionError
from runner.rundir import RunDir, append_row, read_json, write_json

FINAL_CAUSES = ("user code", "configuration", "data", "non-finite loss", "bad checkpoint", "out of memory")
"""Causes that would only come again: never requeued."""

CRASH_CAUSES = ("killed", "peer crash", "launch failed")
"""Causes that a fresh start may cure, within the profile's `max_failures`."""


@dataclass(frozen=True)
class Decision:
    """What happens to a trial whose processes have ended."""

    action: Literal["done", "leave", "requeue", "fail"]
    """`leave` = somebody else (Slurm, the user) decides."""

    cause: str
    reason: str


def decide(
    exit_code: int,
    *,
    launch: str,
    done: bool,
    cancelled: bool,
    job_state: str,
    attempts: list[dict[str, Any]],
    crashes: list[dict[str, Any]],
    max_failures: int,
    superseded: bool = False,
) -> Decision:
    """Decide from facts: the exit code, the run folder, and what the scheduler says of the job.

    `launch` names the launch that ended, as its start row does if it got that far; `attempts` are the rows of
    attempts.jsonl, `crashes` what its dying ranks left, first death first; `superseded` means that the trial has a
    newer attempt than this launch had.
    """
    if done:
        return Decision("done", "done", "result.json exists")
    if cancelled:
        return Decision("leave", "cancelled", "the user cancelled it")
    if job_state not in ("RUNNING", "LOCAL"):
        # COMPLETING, CANCELLED, PENDING: a scancel, a requeue or a preemption is already under way
        return Decision("leave", "terminated", f"the scheduler has already decided: {job_state}")
    if superseded:
        # A requeue now would end the newer attempt, which would do the same to ours.
        return Decision("leave", "superseded", "a newer attempt has taken over")
    started = any(row["event"] == "start" and row["launch"] == launch for row in attempts)
    if started and attempts[-1]["event"] == "end" and attempts[-1]["requeue"]:
        return Decision("requeue", attempts[-1]["cause"], "saved, but the first request to requeue did not get through")
    final = [crash for crash in crashes if crash["cause"] in FINAL_CAUSES]
    if final:
        crash = final[0]
        return Decision("fail", crash["cause"], f"rank {crash['rank']}: {crash['error']}")
    if not started:
        cause, failures = "launch failed", launch_failures(attempts) + 1
    else:
        cause = "killed" if exit_code > 128 or not crashes else "peer crash"
        failures = failures_without_progress(attempts) + 1
    if failures > max_failures:
        return Decision(
            "fail",
            cause,
            f"{failures} failures in a row without a new checkpoint (max_failures={max_failures})",
        )
    return Decision(
        "requeue",
        cause,
        f"exit code {exit_code}; failure {failures} of at most {max_failures} without progress",
    )


def failures_without_progress(attempts: list[dict[str, Any]]) -> int:
    """How many of the last attempts crashed from the same step on as the newest one."""
    starts = [row for row in attempts if row["event"] == "start"]
    ends = {row["attempt"]: row for row in attempts if row["event"] == "end"}
    newest, count = starts[-1], 0
    for start in reversed(starts[:-1]):
        end = ends.get(start["attempt"])
        if end is None or end["cause"] not in CRASH_CAUSES or start["start_step"] != newest["start_step"]:
            break
        count += 1
    return count


def launch_failures(attempts: list[dict[str, Any]]) -> int:
    """How many of the last launches did not get as far as an attempt."""
    return len(list(takewhile(lambda row: row["cause"] == "launch failed", _ends_backwards(attempts))))


def _ends_backwards(attempts: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """End rows after the last start row, the newest first."""
    return takewhile(lambda row: row["event"] == "end", reversed(attempts))


def attempt_of(run: RunDir, launch: str) -> int | None:
    """The last attempt of a launch; None when the launch ended before it had one."""
    numbers = [row["attempt"] for row in run.attempt_rows() if row["event"] == "start" and row["launch"] == launch]
    note = read_json(run.launch_note(launch))
    return max(numbers + ([note["attempt"]] if note else []), default=None)


def last_attempt(run: RunDir) -> int:
    """The newest attempt of all, 0 when there is none."""
    return max((int(path.name) for path in (run.path / "tokens").glob("[0-9]*")), default=0)


def read_crashes(run: RunDir, attempt: int) -> list[dict[str, Any]]:
    """What the ranks of an attempt left when they died, first death first.

    A rank that only lost its peer names no cause of its own; it counts after those that do.
    """
    found = [read_json(path) for path in run.token(attempt).glob("crash.rank_*.json")]
    crashes = [crash for crash in found if crash is not None]
    return sorted(crashes, key=lambda crash: (crash["cause"] == "peer crash", crash["time"]))


def judge(run: RunDir, launch: str, exit_code: int, job_state: str, max_failures: int) -> Decision:
    """Decide about a run folder, and write down what was decided: an end row, and failure.json when it is over."""
    attempts, own = run.attempt_rows(), attempt_of(run, launch)
    crashes = read_crashes(run, own) if own is not None else []
    decision = decide(
        exit_code,
        launch=launch,
        done=run.result.exists(),
        cancelled=run.cancelled.exists(),
        job_state=job_state,
        attempts=attempts,
        crashes=crashes,
        max_failures=max_failures,
        superseded=own is not None and own < last_attempt(run),
    )
    if decision.action in ("requeue", "fail"):
        last = attempts[-1] if attempts else {"event": "none", "attempt": 0}
        if last["event"] != "end" or decision.cause == "launch failed":
            append_row(
                run.attempts,
                {
                    "event": "end",
                    "attempt": last["attempt"],
                    "time": time.time(),
                    "end_step": max((crash["step"] for crash in crashes if crash["step"] is not None), default=None),
                    "cause": decision.cause,
                    "requeue": decision.action == "requeue",
                    "signal_to_saved_seconds": None,
                },
            )
    if decision.action == "fail":
        crash = crashes[0] if crashes else {}
        write_json(
            run.failure,
            {
                "cause": decision.cause,
                "rank": crash.get("rank"),
                "error": decision.reason,
                "traceback": crash.get("traceback"),
                "exit_code": exit_code,
                "time": time.time(),
            },
        )
    return decision


def main(arguments: list[str]) -> int:
    """The batch script's EXIT trap: `python -m runner.requeue MANIFEST INDEX JOB_ID LAUNCH EXIT_CODE MAX_FAILURES`."""
    manifest, index, job_id, launch, exit_code, max_failures = arguments
    run = RunDir(Path(Path(manifest).read_text().splitlines()[int(index)]))
    try:
        job = slurm.show_job(job_id)
        # Where this launch was cut off from the controller, the job may run again elsewhere.
        current = launch == f"{job_id}.{job.get('Restarts', '0')}"
        job_state = job.get("JobState", "UNKNOWN") if current else f"launch {launch} was given up for another"
    except SubmissionError as error:
        job_state = f"no answer ({error})"
    decision = judge(run, launch, int(exit_code), job_state, int(max_failures))
    print(
        f"runner: {run.experiment}/{run.trial}: {decision.action}, {decision.cause}: {decision.reason}",
        flush=True,
    )
    if decision.action == "requeue":
        slurm.requeue(job_id)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
