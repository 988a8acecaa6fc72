"""Stop trials for good, and take stopped ones up again."""

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from runner import files, slurm
from runner.cluster_name import find_foreign
from runner.code_snapshot import code_of
from runner.errors import SubmissionError
from runner.evidence import has_checkpoint, last_attempt, told_saved
from runner.files import masked, write_json
from runner.lock import locked
from runner.orphans import settle_orphans
from runner.ownership import is_ours, is_over
from runner.profile import load_profile
from runner.record import read_end
from runner.rundir import RunDir, is_closed
from runner.status import STOPPED, Job, Row, ask_about, read_statuses
from runner.submission import SLURM_CLUSTER, SubmissionDir, index_of

PATIENCE_SECONDS = 30
"""How long a retry waits for jobs that are just ending; saving takes seconds."""

POLL_SECONDS = 1.0


@dataclass(frozen=True)
class RetryPlan:
    """Which trials a retry submits again, and why it leaves others."""

    runs: list[RunDir] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    ending: list[RunDir] = field(default_factory=list)
    """Of those that are refused, the ones whose jobs are about to end."""


def cancel(runs: Iterable[RunDir]) -> list[RunDir]:
    """Cancel trials that are not final, and return them.

    cancelled.json comes first, so that nothing requeues a trial whose job is about to get its signal; then
    one scancel for all Slurm jobs. A local queue finds the files by itself. Raises: SubmissionError when
    Slurm does not answer; the files stay, and the jobs end when they are started next.
    """
    by_folder: dict[Path, list[RunDir]] = {}
    for run in runs:
        by_folder.setdefault(run.path.parent, []).append(run)
    cancelled, jobs = [], []
    for folder, members in by_folder.items():
        # A submission under way has made folders whose job ids it has yet to write down.
        with locked(folder):
            marked, theirs = mark_cancelled(members)
        cancelled += marked
        jobs += theirs
    cancel_jobs(jobs)
    return cancelled


def cancel_jobs(jobs: Sequence[dict[str, Any]]) -> None:
    """One scancel for the jobs, rows of jobs.jsonl, that are of this cluster; says which are not.

    The trials of those heed their cancelled.json. Raises: SubmissionError when Slurm does not answer.
    """
    foreign = find_foreign(dict(enumerate(jobs)))
    for name in sorted(set(foreign.values())):
        ids = " ".join(str(jobs[i]["job_id"]) for i in foreign if foreign[i] == name)
        told = f"cannot be cancelled from here; what runs ends by itself soon, else `scancel {ids}` there"
        print(f"runner: jobs of cluster {name} {told}", file=sys.stderr)
    if ours := [str(job["job_id"]) for i, job in enumerate(jobs) if i not in foreign]:
        slurm.cancel(ours)


def mark_cancelled(runs: Iterable[RunDir]) -> tuple[list[RunDir], list[dict[str, Any]]]:
    """Write cancelled.json for those that are not final; call under the lock.

    Which these are, and the rows of jobs.jsonl of their Slurm jobs, each job once.
    """
    cancelled, jobs = [], dict[tuple[str, str], dict[str, Any]]()
    for run in runs:
        if is_closed(run):
            continue
        record = read_end(run)
        if record.is_final:
            continue
        with masked(run.umask()):
            write_json(run.cancelled, {"time": time.time()})
        cancelled.append(run)
        if record.job and record.job["cluster"] != "local":
            jobs[str(record.job.get(SLURM_CLUSTER)), str(record.job["job_id"])] = record.job
    elements = cache(lambda submission: SubmissionDir(submission).elements())
    return cancelled, [job for job in jobs.values() if not _goes_on(job, elements)]


def _goes_on(job: dict[str, Any], elements: Callable[[Path], list[list[RunDir]]]) -> bool:
    """Whether a job, a row of jobs.jsonl, has other trials to end; of the cancelled ones it lets go by itself."""
    if not job.get("packed"):
        return False
    submission = Path(job["submission"])
    runs = elements(submission)[index_of(str(job["job_id"]))]
    return any(not is_over(run) and is_ours(run, submission) for run in runs)


def plan_retry(rows: list[Row], jobs: list[Job | None]) -> RetryPlan:
    """What failed, was cancelled or got lost is submitted again, unless its last job may still write.

    `jobs` says of each row's last job what the scheduler knows now, final files or not.
    """
    plan = RetryPlan()
    for row, job in zip(rows, jobs, strict=True):
        if row.state not in STOPPED:
            continue
        if row.record.damaged:
            plan.refused.append(f"{row.trial}: {row.note}")
        elif job is not None and job.phase == "running":
            plan.refused.append(f"{row.trial}: job {row.job_id} is still ending; retry in a moment")
            plan.ending.append(row.run)
        elif job is not None and job.phase == "waiting" and not (row.is_beside_others and row.state == "failed"):
            # A queue lets go of what failed; what was cancelled it has perhaps not looked at yet.
            plan.refused.append(f"{row.trial}: {row.job_id} still has it in its queue; retry later")
            plan.ending.append(row.run)
        elif row.state == "unknown" and not row.settled:
            plan.refused.append(f"{row.trial}: it may still be running: {row.note}")
        else:
            plan.runs.append(row.run)
    return plan


def retry(
    runs: list[RunDir],
    profile: str | None,
    patience_seconds: float = PATIENCE_SECONDS,
    *,
    ranks: int | None = None,
    is_elastic: bool = False,
    code: Literal["own", "current"] = "own",
) -> RetryPlan:
    """Submit again what can be, to `profile` or to where each went last; they go on from their last checkpoints.

    Waits a little for jobs that are just ending. Looks and submits under one lock, so that two retries at once
    submit a trial once. With `ranks` they train on that many from now on, which `is_elastic` allows where there is a
    checkpoint of another number. With `code="current"` they go on with the code of today, else with their own.

    Raises, before anything is changed: SubmissionError when a trial never went anywhere and no profile is given,
    ConfigError for a profile or a config that cannot be read, code that is gone, or ranks that it cannot have.
    Raises: SubmissionError when the cluster refuses.
    """
    from runner.recode import recode
    from runner.reshape import plan_reshape, reshape
    from runner.shipment import plan_shipments, ship

    if profile is not None:
        load_profile(profile)
    wait_for_ending(runs, patience_seconds)
    total = RetryPlan()
    for folder in dict.fromkeys(run.path.parent for run in runs):
        members = [run for run in runs if run.path.parent == folder]
        with masked(members[0].umask()), locked(folder):
            for line in settle_orphans(folder):
                print(f"runner: {line}", file=sys.stderr)
            plan = without_lost(look(members))
            for run in plan.runs:
                if profile is None and not run.job_rows():
                    raise SubmissionError(f"trial {run.trial}: it was never submitted; say where with --on PROFILE")
                if code == "own":
                    code_of(run)
            reshaped = plan_reshape(plan.runs, ranks, is_elastic)
            shipments = plan_shipments(plan.runs, profile, {run: trial.resources for run, trial in reshaped.items()})
            for run, trial in reshaped.items():
                reshape(run, trial)
            if code == "current":
                for line in recode(plan.runs, folder.parent, sys.argv):
                    print(f"runner: {line}", file=sys.stderr)
            for run in plan.runs:
                set_aside(run)
            ship(shipments, folder)
            total.runs.extend(plan.runs)
            total.refused.extend(plan.refused)
    return total


def without_lost(plan: RetryPlan) -> RetryPlan:
    """The plan without the trials whose checkpoints are gone: they would start, and say no more than that."""
    steps = {run: told_saved(run, last_attempt(run)) for run in plan.runs if not has_checkpoint(run)}
    lost = {run: step for run, step in steps.items() if step}
    told = [
        f"{run.trial}: has no checkpoint, but one of step {step} was saved in {run.checkpoints}; put it back, or move "
        "its folder away and submit it anew"
        for run, step in lost.items()
    ]
    return replace(plan, runs=[run for run in plan.runs if run not in lost], refused=[*plan.refused, *told])


def look(runs: list[RunDir]) -> RetryPlan:
    """`plan_retry` for the trials as they are now."""
    rows = read_statuses(runs)
    jobs = ask_about({i: row.record for i, row in enumerate(rows)})
    return plan_retry(rows, [jobs.get(i) for i in range(len(rows))])


def wait_for_ending(runs: list[RunDir], patience_seconds: float) -> None:
    """Return once no job of these trials is about to end any more, or after `patience_seconds`."""
    deadline, told = time.monotonic() + patience_seconds, False
    while (ending := look(runs).ending) and time.monotonic() < deadline:
        if not told:
            names = ", ".join(run.trial for run in ending[:4]) + (", ..." if len(ending) > 4 else "")
            print(f"runner: waiting up to {patience_seconds:.0f} s for jobs to end: {names}", file=sys.stderr)
            told = True
        time.sleep(POLL_SECONDS)


def set_aside(run: RunDir) -> None:
    """Take what makes a trial final out of the way."""
    for path in (run.failure, run.cancelled):
        files.set_aside(path)
