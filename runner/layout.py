"""What the jobs of a trial ask a cluster for: nodes and ranks on each, and all that submitit is told."""

import re
from typing import Any

from runner.config import NAME_PATTERN, ResourcesConfig
from runner.explain import OptionError
from runner.profile import Profile


def layout(ranks: int, gpus_per_node: int | None) -> tuple[int, int]:
    """(nodes, ranks on each node): as few nodes as there are GPUs for, all with the same number of ranks.

    Without GPUs everything runs on one node. Raises ConfigError that names the nearest numbers that fit.
    """
    if gpus_per_node is None:
        return 1, ranks
    if fits := _split(ranks, gpus_per_node):
        return fits
    below = next(n for n in range(ranks, 0, -1) if _split(n, gpus_per_node))
    above = next(n for n in range(ranks, 2 * ranks + gpus_per_node) if _split(n, gpus_per_node))
    problem = f"{ranks} is not allowed; cannot be spread evenly over nodes of {gpus_per_node} GPUs"
    raise OptionError("resources.ranks", f"{problem}; nearest: {below} or {above}")


def _split(ranks: int, gpus_per_node: int) -> tuple[int, int] | None:
    nodes = -(-ranks // gpus_per_node)
    return None if ranks % nodes else (nodes, ranks // nodes)


def submitit_parameters(profile: Profile, resources: ResourcesConfig, name: str = "runner") -> dict[str, Any]:
    """What submitit's SlurmExecutor.update_parameters is to be told for trials of these resources.

    `name` is the job's name, an experiment's. Raises ConfigError for ranks that do not fit on nodes.
    """
    assert profile.cluster == "slurm", profile.cluster
    assert re.fullmatch(NAME_PATTERN, name), name
    nodes, tasks_per_node = layout(resources.ranks, profile.gpus_per_node)
    optional = {
        "partition": profile.partition,
        "account": profile.account,
        "qos": profile.qos,
        "constraint": profile.constraint,
        "nodelist": profile.nodelist,
        "exclude": profile.exclude,
        "gpus_per_node": tasks_per_node if profile.gpus_per_node is not None else None,
        "mem": f"{round(profile.memory_gb * 1024)}MB" if profile.memory_gb is not None else None,
        "comment": profile.comment,
        "mail_user": profile.mail_user,
        "mail_type": profile.mail_type,
    }
    return {key: value for key, value in optional.items() if value is not None} | {
        "job_name": name,
        "nodes": nodes,
        "ntasks_per_node": tasks_per_node,
        "cpus_per_task": profile.cpus_per_task or resources.cpus_per_rank,
        "time": profile.time_minutes,
        "signal_delay_s": profile.signal_lead_seconds,
        "array_parallelism": profile.parallel,
        "setup": list(profile.setup),
        # Without it a site with JobRequeue=0 refuses to requeue.
        "additional_parameters": {"requeue": True},
        # A dead rank ends the others: they could only wait for it.
        "srun_args": ["--kill-on-bad-exit=1"],
    }
