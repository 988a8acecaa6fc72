"""Jobs of a submission that was cut off after sbatch and before it had written down their numbers.

Their trials look as if nothing had been submitted, and a second submission would run them twice. The manifest of the
submission says which trial each job is of, and Slurm which submission each job's script belongs to.
"""

from pathlib import Path

from runner import slurm
from runner.cluster_name import find_foreign
from runner.errors import SubmissionError
from runner.files import append_row, replacing
from runner.ownership import is_over
from runner.rundir import RunDir
from runner.submission import GIVEN_UP, SLURM_CLUSTER, SUBMISSIONS, SubmissionDir, describe_job, index_of, is_row_of


def settle_orphans(folder: Path) -> list[str]:
    """Write down the jobs that nobody has, of an experiment's folder, or cancel them; call under its lock.

    A job whose trial has been submitted again since, or that has nothing to run, is cancelled; every other one runs
    like any other. A submission of which Slurm has no job is given up: one that gets there later ends at once. Returns
    what was done in words, a line a job. Where Slurm does not answer nothing is done.

    Raises: SubmissionError for one that was sent to another cluster, and of which that may have jobs.
    """
    submissions = [SubmissionDir(path) for path in sorted((folder / SUBMISSIONS).glob("*"))]
    lost = {each: members for each in submissions if each.jobs.is_dir() and (members := _unrecorded(each))}
    if not lost:
        return []
    try:
        foreign = find_foreign({each: {SLURM_CLUSTER: each.read_cluster()} for each in lost})
    except SubmissionError:
        return []
    for submission, cluster in foreign.items():
        _check_foreign(submission, cluster, lost.pop(submission))
    if not lost:
        return []
    try:
        scripts = slurm.scripts()
        told = []
        for submission, members in lost.items():
            jobs = [job_id for job_id, script in scripts.items() if _is_of(submission, Path(script))]
            told += _settle(submission, members, jobs)
        return told
    except SubmissionError:
        return []


def _settle(submission: SubmissionDir, members: dict[int, list[RunDir]], jobs: list[str]) -> list[str]:
    number = submission.read_number() or next((job_id.partition("_")[0] for job_id in jobs), GIVEN_UP)
    with replacing(submission.number) as file:
        file.write(f"{number}\n".encode())
    sent = submission.manifest.stat().st_mtime
    kept: dict[str, list[RunDir]] = {}
    for job_id in jobs:
        runs = [run for run in members.get(index_of(job_id), []) if not _is_newer(run, sent)]
        if runs and job_id.partition("_")[0] == number and submission.pickle.exists():
            kept[job_id] = runs
    elements = submission.elements()
    unwanted = [
        job_id
        for job_id in jobs
        if job_id not in kept
        and index_of(job_id) in members
        and not any(_has_row(run, submission) for run in elements[index_of(job_id)])
    ]
    slurm.cancel(unwanted)
    found = [(job_id, run) for job_id, runs in kept.items() for run in runs]
    for job_id, run in found:
        facts = describe_job(job_id, submission.read_cluster(), is_packed=len(elements[index_of(job_id)]) > 1)
        append_row(run.jobs, {"time": sent, "submission": str(submission.path), **facts})
    return [f"{run.trial}: job {job_id} of a submission that was cut off is its" for job_id, run in found] + [
        f"job {job_id} of a submission that was cut off is cancelled" for job_id in unwanted
    ]


def _is_of(submission: SubmissionDir, script: Path) -> bool:
    """Whether a job's script lies in a submission's folder, by whatever way that was reached."""
    return script.is_relative_to(submission.path) or script.resolve().is_relative_to(submission.path.resolve())


def _check_foreign(submission: SubmissionDir, cluster: str, members: dict[int, list[RunDir]]) -> None:
    """Raise SubmissionError if trials may have jobs of a submission that only another cluster knows of."""
    sent = submission.manifest.stat().st_mtime
    open_runs = [run for runs in members.values() for run in runs if not (is_over(run) or _is_newer(run, sent))]
    if open_runs:
        names = ", ".join(run.trial for run in open_runs[:4]) + (", ..." if len(open_runs) > 4 else "")
        raise SubmissionError(
            f"{submission.path}: was cut off while it was sent to cluster {cluster}, which may have jobs of {names}; "
            "`runner submit` there finds out, or remove this folder"
        )


def _is_newer(run: RunDir, sent: float) -> bool:
    """Whether a trial was submitted after this time, in unix seconds."""
    return any(row["time"] > sent for row in run.job_rows())


def _unrecorded(submission: SubmissionDir) -> dict[int, list[RunDir]]:
    """Trials without a row of this submission, by the index of their element in the array."""
    if submission.read_number() == GIVEN_UP:
        return {}
    elements = {
        index: [run for run in element if run.config.exists() and not _has_row(run, submission)]
        for index, element in enumerate(submission.elements())
    }
    return {index: element for index, element in elements.items() if element}


def _has_row(run: RunDir, submission: SubmissionDir) -> bool:
    return any(is_row_of(row, submission.path) for row in run.job_rows())
