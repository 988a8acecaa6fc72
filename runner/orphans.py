"""Jobs of a submission that was killed after sbatch and before it had written down their ids.

Their trials look as if nothing had been submitted, and a second submission would run them twice. The manifest of the
submission says which trial each job is of, and Slurm which submission each job's script belongs to.
"""

import os
from pathlib import Path

from runner import slurm
from runner.errors import SubmissionError
from runner.files import append_row
from runner.local_queue import MANIFEST
from runner.rundir import RunDir


def settle_orphans(folder: Path) -> list[str]:
    """Write down the jobs that nobody has, of an experiment's folder, or cancel them; call under its lock.

    A job that got its pickle runs like any other. One without would wait for it for ever, so it is cancelled, and its
    trial is new again. Returns what was done in words, a line a job. Where Slurm does not answer nothing is done.
    """
    sent_to_slurm = [path for path in sorted(folder.glob(".submissions/*")) if (path / "jobs").is_dir()]
    lost = {submission: members for submission in sent_to_slurm if (members := _unrecorded(submission))}
    if not lost:
        return []
    try:
        jobs = slurm.scripts()
        orphans = [
            (job_id, members[index], submission)
            for submission, members in lost.items()
            for job_id, script in jobs.items()
            if Path(script).is_relative_to(submission) and (index := _index(job_id)) in members
        ]
        hopeless = [job_id for job_id, _, submission in orphans if not _pickle(submission, job_id).exists()]
        if hopeless:
            slurm.cancel(hopeless)
    except SubmissionError:
        return []
    for job_id, run, submission in orphans:
        if job_id not in hopeless:
            facts = {"cluster": "slurm", "job_id": job_id, "host": os.uname().nodename}
            append_row(run.jobs, {"time": submission.stat().st_mtime, "submission": str(submission), **facts})
    return [
        f"{run.trial}: job {job_id} of a submission that was cut off is {'cancelled' if job_id in hopeless else 'its'}"
        for job_id, run, _ in orphans
    ]


def _unrecorded(submission: Path) -> dict[int, RunDir]:
    """Members without a row of this submission, by their index in the array."""
    manifest = submission / MANIFEST
    lines = manifest.read_text().splitlines() if manifest.exists() else []
    runs = {index: RunDir(Path(line)) for index, line in enumerate(lines)}
    return {
        index: run
        for index, run in runs.items()
        if run.config.exists() and all(row["submission"] != str(submission) for row in run.job_rows())
    }


def _index(job_id: str) -> int:
    """The place in the array; a submission of one trial is no array."""
    return int(job_id.partition("_")[2] or 0)


def _pickle(submission: Path, job_id: str) -> Path:
    """Where submitit puts what a job runs, once it knows the job's number."""
    return submission / "jobs" / f"{job_id}_submitted.pkl"
