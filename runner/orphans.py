"""Jobs of a submission that was cut off after sbatch and before it had written down their numbers.

Their trials look as if nothing had been submitted, and a second submission would run them twice. The manifest of the
submission says which trial each job is of, and Slurm which submission each job's script belongs to.
"""

import os
from pathlib import Path

from runner import slurm
from runner.errors import SubmissionError
from runner.files import append_row, replacing
from runner.rundir import RunDir
from runner.submission import GIVEN_UP, SUBMISSIONS, SubmissionDir


def settle_orphans(folder: Path) -> list[str]:
    """Write down the jobs that nobody has, of an experiment's folder, or cancel them; call under its lock.

    A job whose trial has been submitted again since, or that has nothing to run, is cancelled; every other one runs
    like any other. A submission of which Slurm has no job is given up: one that gets there later ends at once. Returns
    what was done in words, a line a job. Where Slurm does not answer nothing is done.
    """
    submissions = [SubmissionDir(path) for path in sorted((folder / SUBMISSIONS).glob("*"))]
    lost = {each: members for each in submissions if each.jobs.is_dir() and (members := _unrecorded(each))}
    if not lost:
        return []
    try:
        scripts = slurm.scripts()
        told = []
        for submission, members in lost.items():
            jobs = [job_id for job_id, script in scripts.items() if Path(script).is_relative_to(submission.path)]
            told += _settle(submission, members, jobs)
        return told
    except SubmissionError:
        return []


def _settle(submission: SubmissionDir, members: dict[int, RunDir], jobs: list[str]) -> list[str]:
    number = submission.read_number() or next((job_id.partition("_")[0] for job_id in jobs), GIVEN_UP)
    with replacing(submission.number) as file:
        file.write(f"{number}\n".encode())
    sent = submission.manifest.stat().st_mtime
    kept: dict[str, RunDir] = {}
    for job_id in jobs:
        array, _, index = job_id.partition("_")
        run = members.get(int(index or 0))
        if run is not None and array == number and submission.pickle.exists() and not _is_newer(run, sent):
            kept[job_id] = run
    unwanted = [job_id for job_id in jobs if job_id not in kept and int(job_id.partition("_")[2] or 0) in members]
    slurm.cancel(unwanted)
    for job_id, run in kept.items():
        facts = {"cluster": "slurm", "job_id": job_id, "host": os.uname().nodename}
        append_row(run.jobs, {"time": sent, "submission": str(submission.path), **facts})
    return [f"{run.trial}: job {job_id} of a submission that was cut off is its" for job_id, run in kept.items()] + [
        f"job {job_id} of a submission that was cut off is cancelled" for job_id in unwanted
    ]


def _is_newer(run: RunDir, sent: float) -> bool:
    """Whether a trial was submitted after this time, in unix seconds."""
    return any(row["time"] > sent for row in run.job_rows())


def _unrecorded(submission: SubmissionDir) -> dict[int, RunDir]:
    """Members without a row of this submission, by their index in the array."""
    if submission.read_number() == GIVEN_UP:
        return {}
    return {
        index: run
        for index, run in enumerate(submission.members())
        if run.config.exists() and all(row["submission"] != str(submission.path) for row in run.job_rows())
    }
