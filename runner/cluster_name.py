"""Which cluster the Slurm on PATH speaks for: a run root may be used from several, each with job numbers of its own."""

import os
import re
import shutil
from collections.abc import Collection, Hashable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from runner import slurm
from runner.errors import SubmissionError
from runner.submission import SLURM_CLUSTER

T = TypeVar("T", bound=Hashable)
CONFIGURATIONS = ("/etc/slurm/slurm.conf", "/run/slurm/conf/slurm.conf")
_NAME = re.compile(r'^\s*ClusterName\s*=\s*"?([^\s"#]+)', re.IGNORECASE | re.MULTILINE)


def find_foreign(jobs: Mapping[T, Mapping[str, Any]]) -> dict[T, str]:
    """Of jobs, rows of jobs.jsonl by any key, those of other clusters than this, each with its cluster.

    Raises: SubmissionError where neither a file nor the controller says which cluster this is.
    """
    named = {key: str(job[SLURM_CLUSTER]) for key, job in jobs.items() if job.get(SLURM_CLUSTER)}
    if not named:
        return {}
    here = find_name(set(named.values()))
    return {key: name for key, name in named.items() if name != here}


def find_name(expected: Collection[str] = ()) -> str:
    """The ClusterName of the Slurm on PATH, in lower case as Slurm has it.

    The controller is asked, once in a process, unless a file says it: the one that Slurm's tools are told to read,
    or one in a usual place, which may be out of use, if it says all that is `expected`. Raises: SubmissionError.
    """
    environment = os.environ
    if "SLURM_CLUSTERS" not in environment:
        if told := environment.get("SLURM_CONF"):
            if name := read_name(Path(told)):
                return name
        elif set(expected) == {name := environment.get("SLURM_CLUSTER_NAME") or _find_usual()}:
            assert name is not None
            return name
    return _ask(*(environment.get(name) for name in ("SLURM_CONF", "SLURM_CLUSTERS", "PATH")))


def read_name(configuration: Path) -> str | None:
    """The ClusterName that a slurm.conf sets; None where there is no such file, or it leaves that to another."""
    try:
        found = _NAME.search(configuration.read_text(errors="replace"))
    except OSError:
        return None
    return found[1].lower() if found else None


def _find_usual() -> str | None:
    """What slurm.conf says in the first usual place that has one; beside the tools before anywhere else."""
    tool = shutil.which("squeue")
    beside = [Path(tool).resolve().parents[1] / "etc" / "slurm.conf"] if tool else []
    return next(filter(None, map(read_name, [*beside, *map(Path, CONFIGURATIONS)])), None)


@cache
def _ask(*_which: str | None) -> str:
    name = slurm.show_config().get("ClusterName", "").lower()
    if not name:
        raise SubmissionError("scontrol show config: names no cluster")
    return name
