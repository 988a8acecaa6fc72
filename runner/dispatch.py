"""Send trials where they are to run: as a job array through submitit, or to a queue of this machine."""

import contextlib
import io
import os
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from runner import slurm
from runner.code_snapshot import code_of, shell_check, shell_words
from runner.config import ResourcesConfig
from runner.errors import SubmissionError
from runner.evidence import mark
from runner.files import append_row, check_private, replacing, write_json, write_yaml
from runner.job import NO_MORE_TIMEOUTS, TrainJob, python_command
from runner.local_queue import MANIFEST, start
from runner.nodes import Excluded, list_clusters, merge, read_excluded
from runner.profile import Profile, submitit_parameters
from runner.requeue import EXIT_OVER
from runner.rundir import RunDir


class RefusedError(SubmissionError):
    """The cluster refused the job, and has none of it."""


SUBMISSIONS = ".submissions"
"""Folder, in that of an experiment, with a folder for each array: profile, list of trials, job files."""


def send(
    chosen: list[tuple[RunDir, ResourcesConfig]], site: Profile, folder: Path, stop_after: int | None = None
) -> None:
    """Send trials of one experiment folder to a cluster or a local queue, one array for each kind of resources.

    A trial runs the code that its folder names. Call it under the folder's lock. Raises: SubmissionError;
    RefusedError when the cluster has none of them; ConfigError when a trial's code is gone.
    """
    classes: dict[tuple[ResourcesConfig, Path | None], list[RunDir]] = {}
    for run, resources in chosen:
        classes.setdefault((resources, code_of(run)), []).append(run)
    for number, ((resources, code), members) in enumerate(classes.items()):
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
        submission = folder / SUBMISSIONS / f"{stamp}.{os.getpid()}.{number}"
        # Whoever could write here would have the job run what he likes; so nobody else may even look.
        (folder / SUBMISSIONS).mkdir(exist_ok=True)
        submission.mkdir(mode=0o700)
        check_private(submission, folder.parent)
        write_yaml(submission / "profile.yaml", site.model_dump(mode="json"))
        write_json(submission / "resources.json", resources.model_dump(mode="json"))
        try:
            if site.cluster == "slurm":
                _send_to_slurm(members, resources, site, submission, code, stop_after)
            else:
                assert stop_after is None, "the local queue runs whole trials"
                _send_to_local_queue(members, submission, code)
        except RefusedError:
            shutil.rmtree(submission)
            raise


def _record(members: list[RunDir], submission: Path, asked: float, facts: list[dict[str, Any]]) -> None:
    """Note in each run folder where its job is; `asked` is when, in unix seconds, before the job could start."""
    for run, row in zip(members, facts, strict=True):
        append_row(run.jobs, {"time": asked, "submission": str(submission), **row})


def _write_manifest(submission: Path, members: list[RunDir]) -> None:
    with replacing(submission / MANIFEST) as file:
        file.write("".join(f"{run.path}\n" for run in members).encode())


def _executor(resources: ResourcesConfig, site: Profile, submission: Path, code: Path | None) -> Any:
    import submitit

    try:
        executor = submitit.SlurmExecutor(
            submission / "jobs", max_num_timeout=NO_MORE_TIMEOUTS, python=python_command(code)
        )
    except RuntimeError as error:
        raise SubmissionError("srun is not on PATH; use --on slurm/local.yaml, or run this on a login node") from error
    executor.update_parameters(**sbatch_parameters(resources, site, submission, code))
    return executor


def sbatch_parameters(
    resources: ResourcesConfig, site: Profile, submission: Path, code: Path | None = None
) -> dict[str, Any]:
    """What submitit makes the batch script from; the job is called after its experiment."""
    parameters = submitit_parameters(site, resources, name=submission.parents[1].name)
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
    notify = [f"  {python} runner.notify {shlex.quote(str(submission))} {index}"] if site.notify else []
    return [
        *(shell_check(code) if code else []),
        f"export RUNNER_SIGNAL_LEAD_SECONDS={site.signal_lead_seconds}",
        "job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}",
        "job=${job:-$SLURM_JOB_ID}",
        'launch="$job.${SLURM_RESTART_COUNT:-0}"',
        f'echo "{mark("$launch")}" >&2',
        "ask() {",
        f'  {python} runner.requeue "$1" {manifest} {index} "$job" "$launch" "$2" {site.max_failures}',
        "}",
        "judge() {",
        "  code=$?",
        "  trap - EXIT",
        '  [ "$code" -eq 0 ] || ask end "$code"',
        *notify,
        '  exit "$code"',
        "}",
        "trap judge EXIT",
        # Whatever else goes wrong with the question, the ranks start.
        f'[ "${{SLURM_RESTART_COUNT:-0}}" -eq 0 ] || ask begin 0 || [ "$?" -ne {EXIT_OVER} ] || exit 1',
    ]


def _send_to_slurm(
    members: list[RunDir],
    resources: ResourcesConfig,
    site: Profile,
    submission: Path,
    code: Path | None,
    stop_after: int | None,
) -> None:
    import submitit

    executor, asked = _executor(resources, site, submission, code), time.time()
    _write_manifest(submission, members)
    said = io.StringIO()
    try:
        # submitit passes on what sbatch says; of a refusal one line is enough.
        with contextlib.redirect_stderr(said):
            jobs = executor.submit_array([TrainJob(str(run.path), stop_after) for run in members])
    except submitit.core.utils.FailedJobError as error:
        reason = str(error).strip().splitlines()[-1]
        # After a time-out the array may be in the queue all the same: `settle_orphans` finds out.
        kind = SubmissionError if "timed out" in reason.lower() else RefusedError
        raise kind(f"sbatch refused the array: {reason}") from error
    print(said.getvalue(), end="", file=sys.stderr)
    host = os.uname().nodename
    _record(members, submission, asked, [{"cluster": "slurm", "job_id": job.job_id, "host": host} for job in jobs])


def _send_to_local_queue(members: list[RunDir], submission: Path, code: Path | None) -> None:
    asked, process = time.time(), start(submission, code)
    facts = {
        "cluster": "local",
        "job_id": f"local-{process.pid}",
        "pid": process.pid,
        "pid_created": process.create_time(),
        "host": os.uname().nodename,
    }
    _record(members, submission, asked, [facts] * len(members))
    # The queue waits for its list, so every trial names its queue before it starts.
    _write_manifest(submission, members)


def batch_script(
    resources: ResourcesConfig, count: int, site: Profile, submission: Path, code: Path | None = None
) -> str:
    """The script that sbatch is given for an array of so many trials."""
    from submitit.slurm.slurm import _make_sbatch_string

    command = f"{python_command(code)} -u -m submitit.core._submit {shlex.quote(str(submission / 'jobs'))}"
    array = {"map_count": count} if count > 1 else {}
    parameters = sbatch_parameters(resources, site, submission, code)
    script: str = _make_sbatch_string(command=command, folder=submission / "jobs", **parameters, **array)
    return script
