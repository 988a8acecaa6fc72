"""A real Slurm on this one machine, private to its user, for tests and rehearsals.

`up` fills in the templates of slurm/onebox and starts munged, MariaDB and slurmdbd (for sacct), slurmctld and
one slurmd per virtual node, all inside one folder; `down` ends them. Root and plain users may do so. Nothing
listens beyond loopback, and no file, process or Slurm outside the folder is touched.

    cluster = up(folder)
    subprocess.run(["sbatch", ...], env=os.environ | cluster.environment())
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runner.errors import SubmissionError
from runner.onebox import daemons
from runner.onebox.cluster import (
    Cluster,
    Settings,
    default_folder,
    load,
    make_private,
    onebox_hint,
    write_files,
)
from runner.onebox.daemon import command, pid
from runner.onebox.debian import install, missing_tools
from runner.onebox.ports import claimed_ports

__all__ = [
    "Cluster",
    "Settings",
    "Status",
    "default_folder",
    "down",
    "install",
    "kill_node",
    "load",
    "missing_tools",
    "onebox_hint",
    "revive_node",
    "set_user_signal",
    "status",
    "up",
]


@dataclass(frozen=True)
class Status:
    """What runs: pid of each daemon (None: it does not), Slurm's state of each node, unfinished jobs."""

    folder: Path
    daemons: dict[str, int | None]
    nodes: dict[str, str]
    jobs: int

    @property
    def running(self) -> bool:
        return all(self.daemons.values())


def up(folder: Path | None = None, **settings: Any) -> Cluster:
    """Start the cluster of `folder`, or what is missing of it; return when every node takes jobs.

    `settings` are fields of Settings; `folder` is default_folder() if None. Raises ConfigError for a setting
    out of range and for a folder Slurm cannot use, SubmissionError when Slurm is not installed, does not come
    up, or runs there already with other settings, and when the folder holds anything else.
    """
    asked = Settings(**settings)
    if missing := missing_tools(asked.accounting):
        raise SubmissionError(f"{missing[0]} not found; get it with: runner onebox install")
    folder = make_private(folder)
    with _locked(folder):
        before = load(folder) if any(folder.iterdir()) else None
        known_port = before.settings.port0 if before else None
        if before and daemons.running(before):
            if before.settings != replace(asked, port0=asked.port0 or known_port):
                raise SubmissionError(f"{folder} runs with {before.settings}; end it with: runner onebox down")
            daemons.start(before)
            return before
        ports = nullcontext(asked.port0) if asked.port0 else claimed_ports(2 + asked.nodes, known_port)
        with ports as port0:
            cluster = Cluster(folder, replace(asked, port0=port0))
            write_files(cluster)
            try:
                daemons.start(cluster)
            except BaseException:
                daemons.kill_all(cluster)
                raise
        return cluster


def down(folder: Path | None = None, wipe: bool = False) -> None:
    """End the cluster of `folder` with its jobs and all their processes; `wipe` deletes the folder too.

    Without `wipe` jobs are cancelled in good order and the next `up` continues the same accounts. Raises
    SubmissionError for a folder that holds no cluster of ours.
    """
    cluster = load(folder)
    with _locked(cluster.folder):
        if not wipe:
            daemons.stop(cluster)
        daemons.kill_all(cluster)
        if wipe:
            shutil.rmtree(cluster.folder)


def status(folder: Path | None = None) -> Status:
    """What runs of the cluster of `folder`; raises SubmissionError where there is none."""
    cluster = load(folder)
    pids = {name: pid(cluster, name) for name in cluster.daemons}
    if not pids["slurmctld"]:
        return Status(cluster.folder, pids, {}, 0)
    return Status(cluster.folder, pids, daemons.node_states(cluster), daemons.count_jobs(cluster))


def set_user_signal(cluster: Cluster, on: bool) -> Cluster:
    """Let preemption send the signal of `sbatch --signal` (on) or SIGTERM alone (off), from now on."""
    with _locked(cluster.folder):
        changed = replace(cluster, settings=replace(cluster.settings, user_signal=on))
        write_files(changed)
        command(changed, "scontrol", "reconfigure")
    return changed


def kill_node(cluster: Cluster, node: str, noticed: bool = False) -> None:
    """kill -9 the slurmd of a node and all that runs there, as a power cut would.

    Slurm finds out, and requeues the jobs, after one to two node_timeout_seconds; at once if `noticed`.
    """
    daemons.kill_node(cluster, node)
    if noticed:
        command(cluster, "scontrol", "update", f"nodename={node}", "state=down", "reason=killed")


def revive_node(cluster: Cluster, node: str) -> None:
    """Start the slurmd of a killed node again and wait until the node takes jobs.

    If Slurm had not noticed its death, it may take a minute to miss the jobs that ran there.
    """
    daemons.start_nodes(cluster, [node])


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One `up` or `down` of a folder at a time."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
