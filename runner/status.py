"""The state of each trial: files first, then one question to the scheduler for those that files do not settle.

A trial is done when its result.json exists, whatever a scheduler says. Only trials without a final file need a
scheduler at all, and all of them share one question.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from runner import slurm
from runner.errors import SubmissionError
from runner.progress import Progress, main_metric, read_progress
from runner.rundir import RunDir

TrialState = Literal["pending", "running", "requeued", "done", "failed", "cancelled", "unknown"]
STATES: tuple[TrialState, ...] = ("pending", "running", "requeued", "done", "failed", "cancelled", "unknown")

_RETRY = "`runner retry` goes on from the last checkpoint"


@dataclass(frozen=True)
class Job:
    """What a scheduler, or the process table, says about the last job of a trial."""

    phase: Literal["waiting", "running", "ended", "gone", "silent"]
    """`gone` = it answers and knows no such job; `silent` = it does not answer."""

    words: str = ""


@dataclass(frozen=True)
class Row:
    """One line of `runner status`."""

    run: RunDir
    progress: Progress
    state: TrialState
    note: str = ""
    """Why, in words, where the state does not say it all."""

    settled: bool = False
    """Nothing will change any more unless somebody submits the trial again."""

    @property
    def job_id(self) -> str | None:
        return str(self.progress.job["job_id"]) if self.progress.job else None

    @property
    def attempts(self) -> int:
        return sum(row["event"] == "start" for row in self.progress.attempts)

    @property
    def preemptions(self) -> int:
        return sum(row["event"] == "end" and row.get("cause") == "preempted" for row in self.progress.attempts)

    @property
    def metric(self) -> dict[str, float] | None:
        """The main metric, as {name: last value}."""
        name = main_metric(self.progress.metrics)
        return None if name is None else {name: self.progress.metrics[name]}

    def as_json(self) -> dict[str, Any]:
        return {
            "experiment": self.run.experiment,
            "trial": self.run.trial,
            "overrides": self.progress.overrides,
            "state": self.state,
            "step": self.progress.step,
            "steps": self.progress.steps,
            "attempts": self.attempts,
            "preemptions": self.preemptions,
            "job_id": self.job_id,
            "metric": self.metric,
            "updated": self.progress.updated,
        }


Ask = Callable[[list[str]], dict[str, Job]]


def read_statuses(runs: list[RunDir], ask: Ask | None = None) -> list[Row]:
    """The state of each trial, in the order given; `ask` answers for the Slurm jobs of all of them at once."""
    found = _read_all(runs)
    jobs = _ask_about(found, ask or ask_slurm)
    # A job that ended since its files were read may have written its result meanwhile: look again.
    for i, job in jobs.items():
        if job.phase in ("ended", "gone"):
            found[i] = read_progress(runs[i])
    return [_row(run, progress, jobs.get(i)) for i, (run, progress) in enumerate(zip(runs, found, strict=True))]


def decide_state(progress: Progress, job: Job | None) -> tuple[TrialState, str]:
    """The state and a note, from what files and scheduler say; `job` is None when there was never one."""
    if progress.result is not None:
        return "done", ""
    if progress.cancelled:
        return "cancelled", ""
    if progress.failure is not None:
        return "failed", f"{progress.failure.get('cause')}: {progress.failure.get('error')}"
    if job is None:
        return ("unknown", "no job is known") if progress.attempts else ("pending", "not submitted yet")
    if job.phase == "silent":
        return "unknown", job.words
    if job.phase == "waiting":
        return ("requeued" if progress.attempts else "pending"), job.words
    if job.phase == "running":
        return "running", job.words
    if job.phase == "gone":
        return "unknown", f"{job.words}; {_RETRY}"
    if "CANCELLED" in job.words:
        return "cancelled", job.words
    if "COMPLETED" in job.words:
        return "unknown", f"{job.words}, but there is no result.json"
    return "failed", f"{job.words}; {_RETRY}"


def count_states(rows: list[Row]) -> str:
    """In words: "3 done, 1 failed"."""
    counts = {state: sum(row.state == state for row in rows) for state in STATES}
    return ", ".join(f"{count} {state}" for state, count in counts.items() if count) or "no trials"


def ask_slurm(job_ids: list[str]) -> dict[str, Job]:
    """One squeue for all jobs, one sacct for those it has forgotten. Raises SubmissionError when squeue is silent."""
    seen = slurm.squeue(job_ids)
    forgotten = [job_id for job_id in job_ids if job_id not in seen]
    if forgotten:
        seen = {**slurm.sacct(forgotten), **seen}
    return {job_id: _from_slurm(info) for job_id, info in seen.items()}


def is_alive(pid: int | None, created: float | None) -> bool:
    """Whether the process `pid` exists and is the one that was created then; process numbers are used again."""
    import psutil

    if pid is None:
        return False
    try:
        process = psutil.Process(pid)
        same = created is None or abs(process.create_time() - created) < 1
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _read_all(runs: list[RunDir]) -> list[Progress]:
    if len(runs) < 32:
        return [read_progress(run) for run in runs]
    # Threads help where each open waits for a file server.
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(read_progress, runs))


def _ask_about(found: list[Progress], ask: Ask) -> dict[int, Job]:
    """Jobs by position in `found`, for trials that have a job and no final file."""
    pending = {i: progress.job for i, progress in enumerate(found) if progress.job and not progress.is_final}
    jobs = {i: _local_job(job, found[i]) for i, job in pending.items() if job["cluster"] == "local"}
    asked = {i: str(job["job_id"]) for i, job in pending.items() if job["cluster"] != "local"}
    if not asked:
        return jobs
    try:
        answers = ask(sorted(set(asked.values())))
    except SubmissionError as error:
        return jobs | {i: Job("silent", str(error)) for i in asked}
    return jobs | {i: answers.get(job_id) or Job("gone", f"Slurm knows no job {job_id}") for i, job_id in asked.items()}


def _row(run: RunDir, progress: Progress, job: Job | None) -> Row:
    state, note = decide_state(progress, job)
    settled = progress.is_final or job is None or job.phase in ("ended", "gone")
    return Row(run, progress, state, note, settled)


def _from_slurm(info: slurm.JobInfo) -> Job:
    if info.state in ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT"):
        return Job("waiting", info.reason)
    if info.state in ("RUNNING", "COMPLETING", "SIGNALING", "STAGE_OUT", "RESIZING", "SUSPENDED", "STOPPED"):
        return Job("running", "" if info.state == "RUNNING" else info.state)
    return Job("ended", f"Slurm: {info.state}")


def _local_job(job: dict[str, Any], progress: Progress) -> Job:
    """Whether the local queue that holds the trial lives, and whether the trial is the one it runs now."""
    here = os.uname().nodename
    if job.get("host") not in (None, here):
        return Job("silent", f"runs on {job['host']}, and this is {here}")
    if not is_alive(job.get("pid"), job.get("pid_created")):
        return Job("gone", f"its local queue (pid {job.get('pid')}) has ended")
    return Job("running" if progress.has_open_attempt else "waiting")
