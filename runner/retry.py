"""Take stopped trials up again, from their last checkpoints."""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal

from runner import files
from runner.client import UnansweredError
from runner.code_snapshot import code_of
from runner.errors import ConfigError, SubmissionError
from runner.evidence import has_checkpoint, last_attempt, told_saved
from runner.files import masked, replacing
from runner.lock import locked
from runner.orphans import settle_orphans
from runner.profile import load_profile
from runner.provenance import DIFF_FILE
from runner.rundir import RunDir
from runner.status import STOPPED, Job, Row, ask_about, read_statuses

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
    ConfigError for a profile or a config that cannot be read, code that is gone, ranks that it cannot have, and what a
    submission would be refused for. Raises: SubmissionError when the cluster refuses; the trials stay as they were.
    """
    from runner.recode import recode
    from runner.reshape import plan_reshape, reshape
    from runner.shipment import check_shipment, plan_shipments, ship

    if profile is not None:
        load_profile(profile)
    # A job starts in the folder that its trial was first submitted in.
    runs = [RunDir(run.path.absolute()) for run in runs]
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
            resources = {run: trial.resources for run, trial in reshaped.items()}
            shipments = [check_shipment(each, folder) for each in plan_shipments(plan.runs, profile, resources)]
            for shipment in (each for each in shipments if each.members):
                with _put_back_if_refused(shipment.runs):
                    for run in shipment.runs:
                        if run in reshaped:
                            reshape(run, reshaped[run])
                    if code == "current":
                        for line in recode(shipment.runs, folder.parent, sys.argv):
                            print(f"runner: {line}", file=sys.stderr)
                    for run in shipment.runs:
                        set_aside(run)
                    ship(shipment, folder)
                total.runs.extend(shipment.runs)
            sent = set(total.runs)
            left = [
                f"{run.trial}: the queue has no room for it yet; retry later" for run in plan.runs if run not in sent
            ]
            total.refused.extend([*plan.refused, *left])
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


@contextmanager
def _put_back_if_refused(runs: Sequence[RunDir]) -> Iterator[None]:
    """What is changed in the folders of trials that the cluster then refuses is as it was before."""
    before = {run: (set(os.listdir(run.path)), run.config.read_bytes(), len(run.job_rows())) for run in runs}
    try:
        yield
    except UnansweredError:
        raise  # the cluster may have the job
    except (SubmissionError, ConfigError, OSError):
        for run, (names, config, jobs) in before.items():
            if len(run.job_rows()) == jobs:
                _put_back(run, names, config)
        raise


def _put_back(run: RunDir, names: set[str], config: bytes) -> None:
    for name in set(os.listdir(run.path)) - names:
        if before := files.name_before(name):
            (run.path / name).replace(run.path / before)
        elif name in (DIFF_FILE, run.provenance.name):
            (run.path / name).unlink()
    if run.config.read_bytes() != config:
        with replacing(run.config) as file:
            file.write(config)
