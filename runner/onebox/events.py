"""What happens to jobs on a cluster, made to happen to a job of a one-machine Slurm."""

import psutil

from runner.onebox.cluster import Cluster
from runner.onebox.daemon import command
from runner.onebox.daemons import job_processes


def preempt(cluster: Cluster, node: str, seconds: int = 3) -> None:
    """Have a job of higher priority take a node for itself; what runs there is preempted."""
    wanted = ["-p", "high", "-w", node, "--exclusive", "--output=/dev/null", "--chdir=/tmp"]
    command(cluster, "sbatch", *wanted, "--wrap", f"sleep {seconds}")


def node_names(cluster: Cluster, job_id: str) -> list[str]:
    """The nodes on which a job runs, that of its batch script first; empty while it waits."""
    listed = command(cluster, "squeue", "-h", "-j", job_id, "-o", "%N").strip()
    return command(cluster, "scontrol", "show", "hostnames", listed).split() if listed else []


def rank_processes(cluster: Cluster, job_id: str) -> dict[int, psutil.Process]:
    """The processes that srun started for a job, by rank; what they started themselves is left out."""
    found = {}
    for process in job_processes(cluster, cluster.nodes):
        try:
            variables, parent = process.environ(), process.parent()
            # Of a batch script the number is 0, too, but it belongs to no step.
            task = "SLURM_STEP_ID" in variables and parent is not None and parent.name() == "slurmstepd"
            if task and variables.get("SLURM_JOB_ID") == job_id:
                found[int(variables["SLURM_PROCID"])] = process
        except (psutil.Error, KeyError):  # it has just ended, or is about to begin
            continue
    return found
