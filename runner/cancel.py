"""Stop trials for good."""

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from runner import slurm
from runner.cluster_name import find_foreign
from runner.files import masked, write_json
from runner.lock import locked
from runner.ownership import is_ours, is_over
from runner.record import read_end
from runner.rundir import RunDir, is_closed
from runner.submission import SLURM_CLUSTER, SubmissionDir, index_of


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
