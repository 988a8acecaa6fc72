"""The daemons of a one-machine Slurm in the order they need, the state of its nodes, the processes of its jobs."""

import signal
import time
from functools import partial
from pathlib import Path

import psutil

from runner.onebox.cluster import Cluster, user
from runner.onebox.daemon import (
    POLL_SECONDS,
    ask,
    check_name,
    descendants,
    end,
    environment_of,
    find_daemon,
    is_gone,
    is_ours,
    pid,
    start_daemon,
    wait_until,
)
from runner.onebox.database import start_accounting


def start(cluster: Cluster) -> None:
    """Start the daemons that do not run and wait until every node takes jobs."""
    check_name()
    folder = cluster.folder
    run, log = folder / "run", folder / "log"
    munge_socket = f"--socket={run}/munge.socket"
    start_daemon(
        cluster,
        "munged",
        "--foreground",
        "--force",  # it refuses sockets in folders that others may not enter
        munge_socket,
        f"--key-file={folder}/etc/munge.key",
        f"--pid-file={run}/munged.own.pid",
        f"--log-file={log}/munged.log",
        f"--seed-file={run}/munge.seed",
        "--num-threads=2",
    )
    wait_until(cluster, "munged", 10, lambda: ask(cluster, "munge", "--no-input", munge_socket) is not None)
    if cluster.settings.accounting:
        start_accounting(cluster)
    start_daemon(cluster, "slurmctld", "-D")
    wait_until(cluster, "slurmctld", 20, lambda: "is UP" in (ask(cluster, "scontrol", "ping") or ""))
    start_nodes(cluster, cluster.nodes)


def start_nodes(cluster: Cluster, nodes: list[str]) -> None:
    """Start the slurmd of each node that does not run and wait until the nodes take jobs."""
    for node in nodes:
        start_daemon(cluster, f"slurmd-{node}", "-D", "-N", node, cwd=_spool(cluster, node))
    for node in nodes:
        wait_until(cluster, f"slurmd-{node}", 30, partial(_takes_jobs, cluster, node))


def _takes_jobs(cluster: Cluster, node: str) -> bool:
    """Whether it does; a node that Slurm holds for lost is called back."""
    found = node_states(cluster).get(node, "")
    if found.rstrip("*").startswith(("down", "drain", "inval")):
        ask(cluster, "scontrol", "update", f"nodename={node}", "state=resume")
    return bool(pid(cluster, f"slurmd-{node}")) and found in ("idle", "mixed", "allocated", "completing")


def stop(cluster: Cluster) -> None:
    """Cancel the jobs, then end the daemons, each as it wants to be ended."""
    if pid(cluster, "slurmctld"):
        account = f"--user={user()}"
        ask(cluster, "scancel", account)
        ask(cluster, "scancel", "--full", "--signal=KILL", account)
        deadline = time.monotonic() + 20
        while count_jobs(cluster) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
    for tool in ("slurmd", "slurmctld", "slurmdbd", "mariadbd", "munged"):
        end(running(cluster, tool), signal.SIGTERM, patience_seconds=15)


def kill_all(cluster: Cluster) -> None:
    """kill -9 whatever is left of the daemons and the jobs."""
    end(running(cluster, "slurmd"), signal.SIGKILL)  # first, so that nothing new starts
    while left := job_processes(cluster, cluster.nodes):
        end(left, signal.SIGKILL)
    daemons = running(cluster)
    end([member for daemon in daemons for member in [daemon, *descendants(daemon)]], signal.SIGKILL)


def kill_node(cluster: Cluster, node: str) -> None:
    """kill -9 the slurmd of a node and all that runs there."""
    slurmd = find_daemon(cluster, f"slurmd-{node}")
    end([slurmd] if slurmd else [], signal.SIGKILL)
    while left := job_processes(cluster, [node]):
        end(left, signal.SIGKILL)


def running(cluster: Cluster, tool: str | None = None) -> list[psutil.Process]:
    """The living daemons, or those of one tool."""
    names = [name for name in cluster.daemons if tool in (None, name.split("-")[0])]
    return [process for name in names if (process := find_daemon(cluster, name))]


def node_states(cluster: Cluster) -> dict[str, str]:
    """Slurm's word for the state of each node; `*` after it: the node does not answer."""
    lines = (ask(cluster, "sinfo", "-h", "-N", "-p", "low", "-o", "%N %T") or "").splitlines()
    return dict(line.split() for line in lines)


def count_jobs(cluster: Cluster) -> int:
    """How many jobs have not ended."""
    return len((ask(cluster, "squeue", "-h", "-r", "-o", "%i") or "").split())


def job_processes(cluster: Cluster, nodes: list[str]) -> list[psutil.Process]:
    """slurmstepd and the tasks of all jobs on the nodes, with all descendants."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        if _is_task(cluster, process, nodes) or _is_step(cluster, process, nodes):
            found |= {member.pid: member for member in [process, *descendants(process)]}
    return [process for process in found.values() if not is_gone(process)]


def _is_task(cluster: Cluster, process: psutil.Process, nodes: list[str]) -> bool:
    variables = environment_of(process)
    return is_ours(cluster, variables) and variables.get("SLURMD_NODENAME") in nodes


def _is_step(cluster: Cluster, process: psutil.Process, nodes: list[str]) -> bool:
    """slurmstepd writes its title over its environment, but stays in the folder its slurmd was started in.

    For a moment after the fork it still has the name of that slurmd.
    """
    try:
        if process.name() not in ("slurmstepd", "slurmd"):
            return False
        return Path(process.cwd()) in [_spool(cluster, node) for node in nodes]
    except psutil.Error:
        return False


def _spool(cluster: Cluster, node: str) -> Path:
    return cluster.folder / "spool" / node
