"""Send trials where they are to run: as a job array through submitit, or to a queue of this machine."""

import os
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner import slurm
from runner.arrays import plan_arrays, tell_arrays
from runner.client import UnansweredError
from runner.code_snapshot import code_of, shell_check, shell_words
from runner.config import ResourcesConfig
from runner.errors import ConfigError, SubmissionError
from runner.evidence import mark
from runner.files import append_row, check_private, in_parallel, replacing, sync_path, write_json, write_yaml
from runner.job import NO_MORE_TIMEOUTS, ArrayJob, python_command
from runner.layout import submitit_parameters
from runner.limits import Limits, read_cluster, read_limits
from runner.local_queue import start
from runner.nodes import Excluded, list_clusters, merge, read_excluded
from runner.pack import PackJob
from runner.packing import jobs_at_once, pack_parameters, plan_packs
from runner.profile import Profile
from runner.refusals import hint
from runner.requeue import EXIT_OVER
from runner.rundir import RunDir
from runner.sbatch import submit_script
from runner.submission import MANIFEST, SUBMISSIONS, SubmissionDir, describe_job


class RefusedError(SubmissionError):
    """The cluster refused the job, and has none of it."""


@dataclass(frozen=True)
class Waiting:
    """What a submission waits for."""

    jobs: Sequence[str]
    """Jobs and arrays that must have ended."""

    runs: Sequence[RunDir]
    """Trials that must be done by then."""


def send(
    chosen: list[tuple[RunDir, ResourcesConfig]],
    site: Profile,
    folder: Path,
    stop_after: int | None = None,
    limits: Limits | None = None,
    waiting: Waiting | None = None,
) -> None:
    """Send trials of one experiment folder to a cluster, as arrays that fit it, or to a local queue.

    A trial runs the code that its folder names. Call it under the folder's lock. Raises: SubmissionError;
    RefusedError when the cluster has none of those that have no row of this submission; ConfigError when a trial's
    code is gone.
    """
    kinds = [(resources, code_of(run)) for run, resources in chosen]
    packs = plan_packs(kinds, site)
    kinds_of_jobs = [kinds[pack[0]] for pack in packs]
    if site.cluster == "slurm":
        limits = limits or read_limits(site, len(packs), read_cluster())
        size = limits.array_size
        arrays = plan_arrays(kinds_of_jobs, jobs_at_once(site, packs), size)
        if line := tell_arrays(arrays, size):
            print(f"runner: {line}", file=sys.stderr, flush=True)
    else:
        assert stop_after is None, "the local queue runs whole trials"
        arrays = plan_arrays(kinds_of_jobs, max(len(packs), 1), max(len(packs), 1))
    numbers: list[str] = []
    for array in arrays:
        elements = [[chosen[index][0] for index in packs[member]] for member in array.members]
        resources, code = kinds_of_jobs[array.members[0]]
        submission = _open_submission(folder, site, resources)
        try:
            if site.cluster == "slurm":
                if waiting:
                    with replacing(submission.others) as file:
                        file.write("".join(f"{run.path}\n" for run in waiting.runs).encode())
                after = [numbers[array.after]] if array.after is not None else waiting.jobs if waiting else []
                trials = max(map(len, elements))
                script = batch_script(
                    resources, len(elements), site, submission.path, code, array.at_once, after, trials
                )
                name = limits.cluster_name if limits else None
                numbers.append(_send_to_slurm(elements, script, site, submission, stop_after, name))
            else:
                _send_to_local_queue(elements, submission, code)
        except (RefusedError, ConfigError):
            shutil.rmtree(submission.path)
            raise


def _open_submission(folder: Path, site: Profile, resources: ResourcesConfig) -> SubmissionDir:
    submission = SubmissionDir(_make_folder(folder / SUBMISSIONS))
    check_private(submission.path, folder.parent)
    write_yaml(submission.profile, site.model_dump(mode="json"))
    write_json(submission.resources, resources.model_dump(mode="json"))
    return submission


def _make_folder(parent: Path) -> Path:
    """A new folder, named for the time and this process: those of one second are numbered."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    parent.mkdir(exist_ok=True)
    number = 0
    while True:
        path = parent / f"{stamp}.{os.getpid()}.{number}"
        try:
            # Whoever could write here would have the job run what he likes; so nobody else may even look.
            path.mkdir(mode=0o700)
            return path
        except FileExistsError:
            number += 1


def _record(elements: list[list[RunDir]], submission: SubmissionDir, asked: float, facts: list[dict[str, Any]]) -> None:
    """Note in each run folder where its job is; `asked` is when, in unix seconds, before the job could start.

    Not synced one by one: of rows that a power cut takes away, `settle_orphans` finds the jobs again.
    """
    rows = [{"time": asked, "submission": str(submission.path), **row} for row in facts]
    pairs = [(run, row) for element, row in zip(elements, rows, strict=True) for run in element]
    in_parallel(lambda run, row: append_row(run.jobs, row, sync=False), *zip(*pairs, strict=True))


def sbatch_parameters(
    resources: ResourcesConfig, site: Profile, submission: Path, code: Path | None = None, trials: int = 1
) -> dict[str, Any]:
    """What submitit makes the batch script from, for jobs of so many trials; they are called after their experiment."""
    parameters = submitit_parameters(site, resources, name=submission.parents[1].name)
    if site.is_packed:
        parameters |= pack_parameters(site, resources, trials)
    exclude = merge(site.exclude, *(each.node for each in bad_nodes(submission.parents[2])))
    return {
        **parameters,
        **({"exclude": exclude} if exclude else {}),
        "setup": [*parameters["setup"], *exit_trap(submission, site, code)],
    }


def bad_nodes(root: Path) -> list[Excluded]:
    """Nodes of this machine's cluster that broke other trials of the run root today."""
    if not list_clusters(root):
        return []
    try:
        return read_excluded(root, slurm.show_config()["ClusterName"])
    except (SubmissionError, KeyError):
        return []


def exit_trap(submission: Path, site: Profile, code: Path | None = None) -> list[str]:
    """Lines of the batch script: when srun fails, decide inside the job whether the trial is requeued.

    What Slurm has started again without asking is decided about before srun.
    """
    python = " ".join([*([shell_words(code)] if code else []), shlex.quote(sys.executable), "-m"])
    manifest, index = shlex.quote(str(submission / MANIFEST)), '"${SLURM_ARRAY_TASK_ID:-0}"'
    place = SubmissionDir(submission)
    jobs = shlex.quote(str(place.jobs))
    number, pickle = shlex.quote(str(place.number)), shlex.quote(str(place.pickle))
    others = shlex.quote(str(place.others))
    waits = " ".join([python, "runner.after", manifest, index, others])
    module = "pack_requeue" if site.is_packed else "requeue"
    notify = [f"  {python} runner.notify {shlex.quote(str(submission))} {index}"] if site.notify else []
    return [
        *(shell_check(code) if code else []),
        # After a time-out Slurm may have been asked twice, and have taken both.
        'mine="${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}"',
        f'[ "$(cat {number} 2>/dev/null || echo "$mine")" = "$mine" ] || exit 0',
        f"export RUNNER_SIGNAL_LEAD_SECONDS={site.signal_lead_seconds}",
        "job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}",
        "job=${job:-$SLURM_JOB_ID}",
        # By this name submitit looks for it; what an earlier launch may have left half written is replaced.
        f'ln -f {pickle} {jobs}/"$job"_submitted.pkl || cp {pickle} {jobs}/"$job"_submitted.pkl',
        'launch="$job.${SLURM_RESTART_COUNT:-0}"',
        f'echo "{mark("$launch")}" >&2',
        "ask() {",
        f'  {python} runner.{module} "$1" {manifest} {index} "$job" "$launch" "$2" {site.max_failures}',
        "}",
        "judge() {",
        "  code=$?",
        "  trap - EXIT",
        # A requeue ends this shell too, and with it whatever it has started.
        "  trap '' TERM",
        '  [ "$code" -eq 0 ] || ask end "$code"',
        *notify,
        '  exit "$code"',
        "}",
        "trap judge EXIT",
        f'[ ! -e {others} ] || {waits} || [ "$?" -ne {EXIT_OVER} ] || exit 1',
        # Whatever else goes wrong with the question, the ranks start.
        f'[ "${{SLURM_RESTART_COUNT:-0}}" -eq 0 ] || ask begin 0 || [ "$?" -ne {EXIT_OVER} ] || exit 1',
    ]


def _send_to_slurm(
    elements: list[list[RunDir]],
    script: str,
    site: Profile,
    submission: SubmissionDir,
    stop_after: int | None,
    cluster: str | None,
) -> str:
    """The number of the array. Everything that its jobs need is there before sbatch is asked."""
    submission.write_elements(elements)
    submission.jobs.mkdir()
    job = PackJob if site.is_packed else ArrayJob
    _write_pickle(submission, job(str(submission.manifest), stop_after), site)
    with replacing(submission.script) as file:
        file.write(script.encode())
    if cluster:
        with replacing(submission.cluster) as file:
            file.write(f"{cluster}\n".encode())
    asked = time.time()
    try:
        number = submit_script(submission.script)
    except UnansweredError as error:
        rest = "`runner submit` again finds out whether Slurm has the jobs"
        raise SubmissionError(f"{error}; {rest}") from error
    except SubmissionError as error:
        raise RefusedError(f"{error}{hint(str(error), site)}") from error
    with replacing(submission.number) as file:
        file.write(f"{number}\n".encode())
    ids = [number] if len(elements) == 1 else [f"{number}_{index}" for index in range(len(elements))]
    _record(elements, submission, asked, [describe_job(job_id, cluster, is_packed=site.is_packed) for job_id in ids])
    return number


def _write_pickle(submission: SubmissionDir, job: ArrayJob | PackJob, site: Profile) -> None:
    from submitit.core.utils import DelayedSubmission

    delayed = DelayedSubmission(job)
    delayed.set_timeout(site.time_minutes, NO_MORE_TIMEOUTS)
    delayed.dump(submission.pickle)
    sync_path(submission.pickle)


def _send_to_local_queue(elements: list[list[RunDir]], submission: SubmissionDir, code: Path | None) -> None:
    asked, process = time.time(), start(submission.path, code)
    facts = {
        "cluster": "local",
        "job_id": f"local-{process.pid}",
        "pid": process.pid,
        "pid_created": process.create_time(),
        "host": os.uname().nodename,
    }
    _record(elements, submission, asked, [facts] * len(elements))
    # The queue waits for its list, so every trial names its queue before it starts.
    submission.write_elements(elements)


def batch_script(
    resources: ResourcesConfig,
    count: int,
    site: Profile,
    submission: Path,
    code: Path | None = None,
    at_once: int | None = None,
    after: Sequence[str] = (),
    trials: int = 1,
) -> str:
    """The script that sbatch is given for an array of so many jobs, which waits until the jobs in `after` ended.

    No job holds more than so many `trials`.
    """
    from submitit.slurm.slurm import _make_sbatch_string

    jobs = SubmissionDir(submission).jobs
    python = python_command(code, site.container, site.container_python)
    command = f"{python} -u -m submitit.core._submit {shlex.quote(str(jobs))}"
    array = {"map_count": count} if count > 1 else {}
    parameters = sbatch_parameters(resources, site, submission, code, trials)
    if at_once is not None:
        parameters["array_parallelism"] = at_once
    if after:
        parameters["dependency"] = ":".join(["afterany", *after])
    script: str = _make_sbatch_string(command=command, folder=jobs, **parameters, **array)
    return script
