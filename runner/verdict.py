"""What a signal meant: a preemption, the time limit, a requeue by others, or the end; decided by asking Slurm."""

import os
import time

from runner import slurm
from runner.errors import SubmissionError
from runner.preemption import Verdict
from runner.rendezvous import Place
from runner.rundir import RunDir
from runner.slurm_text import UNDECIDED


def settle_verdict(verdict: Verdict, place: Place, run: RunDir, time_is_up: bool = False) -> tuple[Verdict, str]:
    """What a signal meant, by asking the scheduler: TERM alone may be a preemption, a requeue or a scancel.

    Returns the verdict to act on and the cause in words. Rank 0 asks; without Slurm the signal is taken at its word.
    `time_is_up`: no signal came, it was our own clock.
    """
    if run.cancelled.exists():
        return Verdict.SAVE, "cancelled"

    unasked = "time limit" if time_is_up else "preempted" if verdict is Verdict.REQUEUE else "terminated"
    if "SLURM_JOB_ID" not in os.environ or place.job_id == "debug":
        return verdict, unasked
    try:
        job = slurm.show_job(place.job_id)
    except SubmissionError as error:
        print(f"runner: scontrol did not answer: {error}", flush=True)
        return verdict, unasked
    return interpret(verdict, job, time.time(), time_is_up)


def interpret(verdict: Verdict, job: dict[str, str], now: float, time_is_up: bool = False) -> tuple[Verdict, str]:
    """The decision of `settle_verdict` from `slurm.show_job`, whose times are unix seconds like `now`."""
    state = job.get("JobState", "")
    if state not in UNDECIDED:
        # COMPLETING: a scancel, or a requeue that Slurm carries out; requeueing now could resurrect a cancelled job.
        return Verdict.SAVE, "terminated"
    if job.get("PreemptTime", "").isdigit():
        return Verdict.REQUEUE, "preempted"
    # Slurm warns up to a minute early on top of the lead that was asked for.
    lead_seconds = 60 + int(os.environ.get("RUNNER_SIGNAL_LEAD_SECONDS", "120"))
    end = job.get("EndTime", "")
    if time_is_up or (end.isdigit() and int(end) - now <= lead_seconds):
        return Verdict.REQUEUE, "time limit"
    return Verdict.REQUEUE, "preempted" if verdict is Verdict.REQUEUE else "terminated"
