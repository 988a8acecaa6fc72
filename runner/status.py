"""The state of each trial: files first, then one question to the scheduler for those not settled by files.

A trial is done when its result.json exists, whatever a scheduler says. Only trials without a final file need
a scheduler at all, and all of them share one question.
"""

import contextlib
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeVar

from runner import reasons, slurm
from runner.cluster_name import find_foreign
from runner.errors import ConfigError, SubmissionError
from runner.explain import did_you_mean
from runner.processes import is_alive
from runner.record import LOST, Record, main_metric, read_record
from runner.rundir import RunDir
from runner.slurm_text import JobInfo

T = TypeVar("T")
TrialState = Literal["pending", "running", "requeued", "done", "failed", "cancelled", "unknown"]
STATES: tuple[TrialState, ...] = ("pending", "running", "requeued", "done", "failed", "cancelled", "unknown")

STOPPED: tuple[TrialState, ...] = ("failed", "cancelled", "unknown")
"""Of trials that do not go on by themselves, and are not done."""

ASK_AGAIN_SECONDS = 60
"""Between two questions to the accounts about one job: they may be behind, or never get to know it."""

READ_TOGETHER = 32
"""So many run folders are read by one thread, one after the other."""

_RETRY = "`runner retry` goes on from the last checkpoint"
_HEAL = "`runner submit` of its experiment writes it again"
_MOVE = "move the file away, then `runner retry` goes on from the last checkpoint"


@dataclass(frozen=True)
class Job:
    """What a scheduler, or the process table, says about the last job of a trial."""

    phase: Literal["waiting", "running", "ended", "gone", "silent"]
    """`gone` = it answers and knows no such job; `silent` = it does not answer."""

    words: str = ""

    blocked: bool = False
    """It waits for what will not come by itself."""


@dataclass(frozen=True)
class Row:
    """One line of `runner status`."""

    run: RunDir
    record: Record
    state: TrialState
    note: str = ""
    """Why, in words, where the state does not say it all."""

    settled: bool = False
    """Nothing will change any more unless somebody submits the trial again."""

    blocked: bool = False
    """Its job will never start as it is; the note says why, and what can be done."""

    @property
    def experiment(self) -> str:
        return self.run.experiment

    @property
    def trial(self) -> str:
        return self.run.trial

    @property
    def job_id(self) -> str | None:
        return str(self.record.job["job_id"]) if self.record.job else None

    @property
    def is_local(self) -> bool:
        """Its last job was one of a local queue."""
        return self.record.job is not None and self.record.job["cluster"] == "local"

    @property
    def is_beside_others(self) -> bool:
        """What runs it goes on with other trials when it is over: a local queue, or a job that holds several."""
        return self.is_local or bool(self.record.job and self.record.job.get("packed"))

    @property
    def attempts(self) -> int:
        return sum(row["event"] == "start" for row in self.record.attempts)

    @property
    def preemptions(self) -> int:
        return sum(row["event"] == "end" and row.get("cause") == "preempted" for row in self.record.attempts)

    @property
    def metric(self) -> dict[str, float] | None:
        """The main metric, as {name: last value}."""
        name = main_metric(self.record.metrics)
        return None if name is None else {name: self.record.metrics[name]}

    def as_json(self) -> dict[str, Any]:
        return {
            "experiment": self.experiment,
            "trial": self.trial,
            "overrides": self.record.overrides,
            "state": self.state,
            "step": self.record.step,
            "steps": self.record.steps,
            "attempts": self.attempts,
            "preemptions": self.preemptions,
            "job_id": self.job_id,
            "metric": self.metric,
            "updated": self.record.updated,
            "note": self.note,
            "blocked": self.blocked,
        }


Ask = Callable[[list[str]], dict[str, Job]]
Read = Callable[[RunDir], Record]


def read_statuses(runs: list[RunDir], ask: Ask | None = None, read: Read = read_record) -> list[Row]:
    """The state of each trial, in the order given; `ask` answers for the Slurm jobs of all at once.

    `read` may be `read_end`, where nothing but the state is wanted.
    """
    found = read_many(runs, read)
    jobs = ask_about({i: record for i, record in enumerate(found) if not record.is_final}, ask)
    # A job that ended since its files were read may have written its result meanwhile: look again.
    for i, job in jobs.items():
        if job.phase in ("ended", "gone"):
            found[i] = read(runs[i])
    return [_row(run, record, jobs.get(i)) for i, (run, record) in enumerate(zip(runs, found, strict=True))]


def read_many(runs: list[RunDir], read: Callable[[RunDir], T]) -> list[T]:
    """`read` of each run folder, by threads: they help where each open waits for a file server."""
    if len(runs) < READ_TOGETHER:
        return [read(run) for run in runs]
    parts = [runs[start : start + READ_TOGETHER] for start in range(0, len(runs), READ_TOGETHER)]
    with ThreadPoolExecutor(8) as pool:
        return [result for part in pool.map(lambda part: [read(run) for run in part], parts) for result in part]


def decide_state(record: Record, job: Job | None) -> tuple[TrialState, str]:
    """The state and a note, from what files and scheduler say; `job` is None when there was never one."""
    if record.damaged:
        advice = _HEAL if record.damaged == LOST else _MOVE
        return "unknown", record.damaged if record.is_closed else f"{record.damaged}; {advice}"
    if record.result is not None:
        return "done", f"pruned at step {record.step}" if record.result.get("pruned") else ""
    if record.cancelled:
        return "cancelled", ""
    if record.failure is not None:
        return "failed", f"{record.failure.get('cause')}: {record.failure.get('error')}"
    if job is None:
        return ("unknown", "no job is known") if record.attempts else ("pending", "not submitted yet")
    if job.phase == "silent":
        return "unknown", job.words
    if job.phase == "waiting":
        return ("requeued" if record.attempts else "pending"), job.words + _back_off(record, job.words)
    if job.phase == "running":
        leaving = bool(job.words) and record.awaits_requeue
        return ("requeued" if leaving else "running"), job.words
    if job.phase == "gone":
        return "unknown", f"{job.words}; {_RETRY}"
    if "CANCELLED" in job.words:
        return "cancelled", job.words
    if "COMPLETED" in job.words:
        return "unknown", f"{job.words}, but there is no result.json"
    return "failed", f"{job.words}; {_RETRY}"


def choose_states(rows: list[Row], states: Iterable[str]) -> list[Row]:
    """The rows in these states, all of them if none is given; `blocked` is those that cannot start as they are.

    Raises: ConfigError for what is no state.
    """
    chosen = [state for each in states for state in each.split(",")]
    if unknown := [state for state in chosen if state not in (*STATES, "blocked")]:
        raise ConfigError(f"--state {unknown[0]}: {did_you_mean(unknown[0], [*STATES, 'blocked'])}")
    return [row for row in rows if not chosen or row.state in chosen or ("blocked" in chosen and row.blocked)]


def _back_off(record: Record, words: str) -> str:
    """Who made a job wait that may not begin yet, where it was us."""
    last = record.attempts[-1] if record.attempts else {}
    return f", after {last.get('cause')}" if "(BeginTime)" in words and last.get("delay_seconds") else ""


def count_states(rows: list[Row]) -> str:
    """In words: "3 done, 1 failed"; of those that wait, the ones that cannot start again: "4 pending, 1 blocked"."""
    blocked = sum(row.blocked for row in rows)
    return count_words([row.state for row in rows]) + (f", {blocked} blocked" if blocked else "")


def count_words(states: list[str]) -> str:
    """In words: "3 done, 1 failed"."""
    counts = Counter(states)
    return ", ".join(f"{counts[state]} {state}" for state in (*STATES, "pruned") if counts[state]) or "no trials"


def ask_about(records: dict[int, Record], ask: Ask | None = None) -> dict[int, Job]:
    """What is known of the last job of each trial, by the keys of `records`; asks Slurm once for all."""
    submitted = {i: record.job for i, record in records.items() if record.job}
    # One queue may hold thousands of trials: each process is looked at once.
    alive = cache(is_alive)
    jobs = {i: _local_job(job, records[i], alive) for i, job in submitted.items() if job["cluster"] == "local"}
    asked = {i: str(job["job_id"]) for i, job in submitted.items() if job["cluster"] != "local"}
    try:
        for i, name in find_foreign({i: submitted[i] for i in asked}).items():
            jobs[i] = Job("silent", f"job {asked.pop(i)} is one of cluster {name}, to be asked about there")
        if not asked:
            return jobs
        answers = (ask or ask_slurm)(sorted(set(asked.values())))
    except SubmissionError as error:
        return jobs | {i: Job("silent", str(error)) for i in asked}
    for i, job_id in asked.items():
        jobs[i] = answers.get(job_id) or Job("gone", f"Slurm knows no job {job_id}")
        if submitted[i].get("packed"):
            jobs[i] = _in_pack(jobs[i], records[i])
    return jobs


def ask_slurm(job_ids: list[str], accounts: "Accounts | None" = None) -> dict[str, Job]:
    """One squeue for all jobs, one sacct for those it forgot. Raises SubmissionError if squeue is silent."""
    jobs = {job_id: _from_slurm(info) for job_id, info in slurm.squeue(job_ids).items()}
    return jobs | (accounts or Accounts()).look_up([job_id for job_id in job_ids if job_id not in jobs])


class Accounts:
    """What sacct says of jobs that have ended; it is not asked about one job again and again."""

    def __init__(self) -> None:
        self._ended: dict[str, Job] = {}
        self._asked: dict[str, float] = {}

    def look_up(self, job_ids: list[str]) -> dict[str, Job]:
        """Those of the jobs that are known to have ended, at one call."""
        now = time.monotonic()
        asked = [job_id for job_id in job_ids if now - self._asked.get(job_id, -math.inf) > ASK_AGAIN_SECONDS]
        if asked:
            self._asked |= dict.fromkeys(asked, now)
            # Accounts may be off, down or behind; that these jobs neither wait nor run is known from squeue.
            with contextlib.suppress(SubmissionError):
                found = {job_id: _from_slurm(info) for job_id, info in slurm.sacct(asked).items()}
                self._ended |= {job_id: job for job_id, job in found.items() if job.phase == "ended"}
        return {job_id: self._ended[job_id] for job_id in job_ids if job_id in self._ended}


def _row(run: RunDir, record: Record, job: Job | None) -> Row:
    state, note = decide_state(record, job)
    note = "; ".join(filter(None, [note, record.flaw]))
    settled = record.is_final or bool(record.damaged) or job is None or job.phase in ("ended", "gone")
    blocked = job is not None and job.blocked and state in ("pending", "requeued")
    return Row(run, record, state, note, settled, blocked)


def _from_slurm(info: JobInfo) -> Job:
    if info.state in ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT"):
        start = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(info.start)) if info.start else "its time"
        return Job("waiting", *reasons.describe(info.reason, info.job_id, start))
    if info.state in ("RUNNING", "COMPLETING", "SIGNALING", "STAGE_OUT", "RESIZING", "SUSPENDED", "STOPPED"):
        return Job("running", "" if info.state == "RUNNING" else info.state)
    return Job("ended", f"Slurm: {info.state}")


def _in_pack(job: Job, record: Record) -> Job:
    """What a job that holds several trials is to one of them."""
    if job.phase == "waiting" and record.is_final:
        return Job("ended", "its job passes it over")
    if job.phase != "running":
        return job
    assert record.job is not None
    if record.let_go is not None and record.let_go == record.job.get("submission"):
        return Job("ended", "its job has let go of it")
    return job if record.has_open_attempt else Job("waiting", job.words or "for its turn in the job")


def _local_job(job: dict[str, Any], record: Record, alive: Callable[[int | None, float | None], bool]) -> Job:
    """Whether the local queue that holds the trial lives, and whether the trial is the one it runs now."""
    here = os.uname().nodename
    if job.get("host") not in (None, here):
        return Job("silent", f"runs on {job['host']}, and this is {here}")
    if not alive(job.get("pid"), job.get("pid_created")):
        last = record.attempts[-1] if record.has_open_attempt else {}
        if alive(last.get("pid"), last.get("pid_created")):
            # The ranks of a queue that was killed go on without it.
            return Job("running", f"its local queue (pid {job.get('pid')}) has ended, and nothing would restart it")
        return Job("gone", f"its local queue (pid {job.get('pid')}) has ended")
    if record.let_go is not None and record.let_go == job.get("submission"):
        return Job("ended", "its local queue has let go of it")
    return Job("running" if record.has_open_attempt else "waiting")
