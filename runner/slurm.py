"""Questions to the Slurm on PATH, and the two orders `requeue` and `cancel`.

A job id is `123`, or `123_4` for element 4 of array 123. The last element of an array has the array's own
number as its SLURM_JOB_ID, so elements are named by array and index throughout. Times are unix seconds. Every
function raises SubmissionError, one line, when Slurm is not there or does not answer.
"""

import os
import pwd
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress

from runner.client import QUESTION_PATIENCE_SECONDS, UnknownJobError, ask
from runner.errors import SubmissionError
from runner.slurm_text import (
    SACCT_FIELDS,
    SQUEUE,
    UNDECIDED,
    JobInfo,
    Node,
    parse_config,
    parse_nodes,
    parse_record,
    parse_sacct,
    parse_squeue,
)

JOB_ID = re.compile(r"\d+(_\d+)?", re.ASCII)
ORDER_PATIENCE_SECONDS = 120
"""A controller that fails over is back within two minutes."""

IDS_PER_WORD = 5000
"""A word of a command line holds 128 KiB."""

IDS_TO_LIST = 2000
"""More jobs than these are looked for here, among all there are: squeue compares each it is told with each of them."""


def squeue(job_ids: Iterable[str]) -> dict[str, JobInfo]:
    """What the controller knows about these jobs, in one call; a job it has forgotten is missing.

    `123` asks for a job, or for every element of an array.
    """
    wanted = _checked(job_ids)
    numbers = _numbers(wanted)
    if not numbers:
        return {}
    which = ("-j", ",".join(numbers)) if len(numbers) <= IDS_TO_LIST else ()
    try:
        found = parse_squeue(ask(*SQUEUE, *which))
    except UnknownJobError:
        # One unknown job is an error; one among several is passed over, except by some old versions.
        found = {} if len(numbers) == 1 else parse_squeue(ask(*SQUEUE))
    return _only(wanted, found)


def sacct(job_ids: Iterable[str]) -> dict[str, JobInfo]:
    """The newest record of these jobs in the accounts, in one call; empty where Slurm keeps no accounts."""
    wanted = _checked(job_ids)
    lists = [word for some in _batches(_numbers(wanted)) for word in ("-j", ",".join(some))]
    if not lists:
        return {}
    try:
        return _only(wanted, parse_sacct(ask("sacct", "-n", "-P", "-X", "-o", SACCT_FIELDS, *lists)))
    except SubmissionError as error:
        if "accounting storage is disabled" in str(error):
            return {}
        raise


def scripts(patience_seconds: float = QUESTION_PATIENCE_SECONDS) -> dict[str, str]:
    """The batch script of each job of this user that waits or runs, elements of arrays one by one."""
    words = ["squeue", "-h", "-r", "-u", user_name(), "-o", "%i|%o"]
    lines = ask(*words, patience_seconds=patience_seconds).splitlines()
    return {job_id: script for job_id, _, script in (line.partition("|") for line in lines)}


def show_job(job_id: str, patience_seconds: float = 0) -> dict[str, str]:
    """All fields of `scontrol show job`; empty for a job that Slurm has forgotten.

    EndTime (unix seconds, as text) is the deadline of a running job; a preemption moves it to now +
    GraceTime and sets PreemptTime. Whoever asks between a signal and its end has no patience.
    """
    _checked([job_id])
    try:
        text = ask("scontrol", "show", "job", "-o", job_id, patience_seconds=patience_seconds)
        records = [parse_record(line) for line in text.splitlines()]
    except UnknownJobError:
        return {}
    # The number of an array names all of its elements, and also the one whose SLURM_JOB_ID it is.
    own = [record for record in records if record.get("JobId") == job_id]
    return next(iter(own + records), {})


def show_config() -> dict[str, str]:
    """The configuration that the controller runs with."""
    return parse_config(ask("scontrol", "show", "config"))


def show_partition(name: str) -> dict[str, str]:
    """All fields of `scontrol show partition`."""
    return parse_record(ask("scontrol", "show", "partition", "-o", name))


def nodes() -> list[Node]:
    """All nodes of all partitions."""
    return parse_nodes(ask("sinfo", "-a", "-h", "-N", "-o", "%R|%c|%m|%G"))


def partitions() -> list[dict[str, str]]:
    """All partitions that this user may see, with all their fields."""
    return [parse_record(line) for line in ask("scontrol", "show", "partition", "-o").splitlines()]


def node_kinds() -> list[str]:
    """`partition|gres|cpus|memory in MB|nodes` for each kind of node in each partition."""
    return ask("sinfo", "-h", "-o", "%P|%G|%c|%m|%D").splitlines()


def accounts() -> tuple[str, list[str]]:
    """The default account of this user, and `account|default QOS` for each that they may charge."""
    user, show = user_name(), ("sacctmgr", "-nP", "show")
    default = ask(*show, "user", user, "format=DefaultAccount").strip()
    return default, ask(*show, "assoc", f"user={user}", "format=Account,DefaultQOS").splitlines()


def user_name() -> str:
    """Who runs this, as Slurm knows them."""
    return pwd.getpwuid(os.getuid()).pw_name


def is_one_machine() -> bool:
    """Whether all nodes are this machine, as `runner onebox` makes them."""
    here = {"localhost", os.uname().nodename}
    addresses = ask("sinfo", "-h", "-N", "-o", "%o").split()
    return all(address in here or address.startswith("127.") for address in addresses)


def requeue(job_id: str) -> None:
    """Put a running or an ended job back into the queue, under the same id.

    It revives a cancelled job too: look at its state first. Waits for a controller that is away: without this order
    the job would be over.
    """
    _checked([job_id])
    ask("scontrol", "requeue", job_id, patience_seconds=ORDER_PATIENCE_SECONDS)


def update(job_id: str, key: str, value: str) -> None:
    """Change one field of a job that waits, such as StartTime or ExcNodeList."""
    _checked([job_id])
    assert value and value.isprintable(), value
    ask("scontrol", "update", f"JobId={job_id}", f"{key}={value}")


def previous_launch(job_id: str) -> JobInfo | None:
    """How the launch of a job before its present one ended, as the accounts have it; None where they do not say."""
    _checked([job_id])
    try:
        text = ask("sacct", "-n", "-P", "-X", "-D", "-o", SACCT_FIELDS, "-j", job_id)
    except SubmissionError as error:
        if "accounting storage is disabled" in str(error):
            return None
        raise
    launches = [launch for line in text.splitlines() if (launch := parse_sacct(line).get(job_id)) is not None]
    # The present launch is among them once the accounts have heard of it.
    if launches and launches[-1].state in ("PENDING", "RUNNING", *UNDECIDED):
        launches.pop()
    return launches[-1] if launches else None


def cancel(job_ids: Iterable[str]) -> None:
    """Cancel these jobs; those that have ended or are unknown do not matter."""
    for some in _batches(_checked(job_ids)):
        with suppress(UnknownJobError):
            ask("scancel", *some)


def _checked(job_ids: Iterable[str]) -> list[str]:
    job_ids = list(job_ids)
    for job_id in job_ids:
        if not JOB_ID.fullmatch(job_id):
            raise ValueError(f"not a job id: {job_id!r}")
    return job_ids


def _numbers(job_ids: list[str]) -> list[str]:
    """The jobs and arrays behind the ids: one number fetches all elements of an array."""
    return sorted({job_id.split("_")[0] for job_id in job_ids})


def _batches(job_ids: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(job_ids), IDS_PER_WORD):
        yield job_ids[start : start + IDS_PER_WORD]


def _only(wanted: list[str], found: dict[str, JobInfo]) -> dict[str, JobInfo]:
    names = set(wanted)
    return {key: info for key, info in found.items() if key in names or key.split("_")[0] in names}
