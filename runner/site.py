"""What a profile should say of a site, from what its Slurm tells: pure, but for `read_cluster`. Needs no torch."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from runner import slurm
from runner.errors import ConfigError, SubmissionError
from runner.explain import did_you_mean
from runner.profile import SLACK_SECONDS
from runner.slurm_text import count_gpus, parse_duration
from runner.strict_yaml import flow, show

LONG_MINUTES, SHORT_MINUTES = 1440, 240
"""Time limits where jobs are left alone, and where they make way for others."""

USUAL_LEAD_SECONDS, LONGEST_LEAD_SECONDS = 120, 300
USABLE_MEMORY = 0.95
"""Share of a node's memory that a job may count on."""


@dataclass(frozen=True)
class NodeKind:
    """Nodes of a partition that are alike."""

    count: int
    gpus: int
    cpus: int
    memory_mb: int


@dataclass(frozen=True)
class Partition:
    """One partition, as far as a profile is concerned."""

    name: str
    is_default: bool = False
    is_up: bool = True
    max_seconds: float | None = None
    grace_seconds: float = 0.0
    preempt_mode: str = "OFF"
    default_memory: str = "UNLIMITED"
    """DefMemPerCPU=N or DefMemPerNode=N in MB, or UNLIMITED."""

    nodes: tuple[NodeKind, ...] = ()

    @property
    def node(self) -> NodeKind:
        """The most common kind of node with GPUs, or else of all."""
        with_gpus = [kind for kind in self.nodes if kind.gpus]
        return max(with_gpus or self.nodes, key=lambda kind: kind.count, default=NodeKind(0, 0, 0, 0))


@dataclass(frozen=True)
class Cluster:
    """What Slurm tells of itself and of this user."""

    name: str
    partitions: tuple[Partition, ...]
    accounts: tuple[str, ...] = ()
    """`account` or `account/qos`; the default one first. Empty where Slurm keeps no accounts."""

    counts_memory: bool = False
    """Whether memory is given out to jobs."""

    def partition(self, name: str) -> Partition:
        """Raises: ConfigError for a partition that there is not."""
        names = [partition.name for partition in self.partitions]
        if name not in names:
            raise ConfigError(f"partition: {show(name)} is not allowed; {did_you_mean(name, names)}")
        return self.partitions[names.index(name)]


@dataclass(frozen=True)
class Answers:
    """What the four questions are about."""

    partition: str
    account: str
    """`account`, `account/qos` or nothing: the site's default."""

    gpus_per_node: int
    time_minutes: int


@dataclass(frozen=True)
class Line:
    """One key of a profile, and why it is so."""

    key: str
    value: Any
    why: str


def suggest_partition(cluster: Cluster) -> tuple[str, str]:
    """The partition to begin with, and why."""
    up = [partition for partition in cluster.partitions if partition.is_up]
    if not up:
        raise ConfigError(f"cluster {cluster.name}: no partition is up for this user; give a profile by hand")
    default = next((partition for partition in up if partition.is_default), up[0])
    with_gpus = max(up, key=lambda partition: partition.node.gpus * partition.node.count)
    if default.node.gpus or not with_gpus.node.gpus:
        return default.name, "the default of the cluster" if default.is_default else "the first that is up"
    return with_gpus.name, f"most GPUs; {default.name}, the default, has none"


def suggest_minutes(partition: Partition) -> int:
    """A time limit within that of the partition."""
    wanted = LONG_MINUTES if partition.preempt_mode == "OFF" else SHORT_MINUTES
    return wanted if partition.max_seconds is None else max(1, min(wanted, int(partition.max_seconds // 60)))


def parse_minutes(text: str, partition: Partition) -> int:
    """Minutes of `240` or of Slurm's `4:00:00` and `1-00:00:00`; raises ConfigError above the partition's limit."""
    seconds = parse_duration(text) if ":" in text else (int(text) * 60 if re.fullmatch(r"[0-9]{1,7}", text) else None)
    if seconds is None or seconds < 60:
        raise ConfigError(f"time limit: {show(text)} is not allowed; give minutes, or hours as in 4:00:00")
    if partition.max_seconds is not None and seconds > partition.max_seconds:
        most = f"{partition.max_seconds / 60:.0f} min on {partition.name}"
        raise ConfigError(f"time limit: {show(text)} is not allowed; at most {most}")
    return int(seconds // 60)


def parse_gpus(text: str, partition: Partition) -> int:
    """GPUs of a node; raises ConfigError for more than any node has."""
    most = max((kind.gpus for kind in partition.nodes), default=0)
    if not re.fullmatch(r"[0-9]{1,3}", text) or int(text) > most:
        raise ConfigError(f"GPUs: {show(text)} is not allowed; nodes of {partition.name} have up to {most}")
    return int(text)


def choose(cluster: Cluster, answers: Answers) -> list[Line]:
    """The lines of a profile for a cluster."""
    partition = cluster.partition(answers.partition)
    account, _, qos = answers.account.partition("/")
    lines = [Line("cluster", "slurm", f"{cluster.name}, by way of submitit")]
    lines.append(Line("partition", partition.name, _describe(partition)))
    lines += [Line("account", account, "who is charged")] if account else []
    lines += [Line("qos", qos, "quality of service")] if qos else []
    lines += _per_node(cluster, partition, answers.gpus_per_node)
    limit = "" if partition.max_seconds is None else f", of {partition.max_seconds / 60:.0f} there"
    lines.append(Line("time_minutes", answers.time_minutes, f"a trial that needs more is requeued{limit}"))
    lines.append(_lead(partition, answers.time_minutes))
    lines.append(Line("parallel", 16, "trials at the same time (%16 of the job array)"))
    lines.append(Line("max_failures", 3, "crashes of one trial; preemptions do not count"))
    return lines


def render(lines: Iterable[Line], title: str) -> str:
    """The YAML of a profile, with a comment on each line."""
    texts = [(f"{line.key}: {flow(line.value)}", line.why) for line in lines]
    width = max(len(text) for text, _ in texts) + 2
    end = "# setup: [module load cuda/12.8]   # lines of shell on the node, before the trial"
    return "\n".join([f"# {title}", *(f"{text:{width}}# {why}" for text, why in texts), end]) + "\n"


def read_cluster() -> Cluster:
    """What this Slurm says. Raises: SubmissionError when it does not answer."""
    config = slurm.show_config()
    kinds = parse_nodes(slurm.node_kinds())
    partitions = [parse_partition(record, config, kinds) for record in slurm.partitions()]
    counts_memory = "MEMORY" in config.get("SelectTypeParameters", "").upper()
    try:
        accounts = parse_accounts(*slurm.accounts())
    except SubmissionError:
        accounts = ()
    return Cluster(config.get("ClusterName", "slurm"), tuple(partitions), accounts, counts_memory)


def parse_partition(
    record: dict[str, str], config: dict[str, str], kinds: dict[str, tuple[NodeKind, ...]]
) -> Partition:
    """A partition from `scontrol show partition`; what it does not say is the cluster's."""
    name = record.get("PartitionName", "")
    per_cpu, per_node = (record.get(key, "") for key in ("DefMemPerCPU", "DefMemPerNode"))
    if not per_cpu.isdigit() and not per_node.isdigit():
        per_cpu, per_node = (config.get(key, "") for key in ("DefMemPerCPU", "DefMemPerNode"))
    memory = f"DefMemPerCPU={per_cpu}" if per_cpu.isdigit() else f"DefMemPerNode={per_node}"
    return Partition(
        name,
        is_default=record.get("Default") == "YES",
        is_up=record.get("State", "UP") == "UP",
        max_seconds=parse_duration(record.get("MaxTime", "")),
        grace_seconds=parse_duration(record.get("GraceTime", "")) or 0.0,
        preempt_mode="OFF" if config.get("PreemptType", "none").endswith("none") else record.get("PreemptMode", "OFF"),
        default_memory=memory if per_cpu.isdigit() or per_node.isdigit() else "UNLIMITED",
        nodes=kinds.get(name, ()),
    )


def parse_nodes(lines: Iterable[str]) -> dict[str, tuple[NodeKind, ...]]:
    """Kinds of node by partition, from lines of `partition|gres|cpus|memory|count` as sinfo prints them."""
    found: dict[str, Counter[tuple[int, int, int]]] = {}
    for line in lines:
        partition, gres, cpus, memory, count = line.split("|")
        kind = count_gpus(gres), _leading_number(cpus), _leading_number(memory)
        found.setdefault(partition.rstrip("*"), Counter())[kind] += int(count)
    return {
        partition: tuple(NodeKind(count, *kind) for kind, count in kinds.items()) for partition, kinds in found.items()
    }


def _leading_number(text: str) -> int:
    """sinfo writes `64+` where the nodes of a line differ."""
    return int(re.sub(r"\D.*", "", text) or 0)


def parse_accounts(default: str, lines: Iterable[str]) -> tuple[str, ...]:
    """`account/qos` of this user, from lines of `account|default qos`; those of the default account first."""
    found = []
    for line in lines:
        account, _, qos = line.partition("|")
        found.append(f"{account}/{qos}" if qos else account)
    return tuple(sorted(dict.fromkeys(found), key=lambda entry: entry.partition("/")[0] != default))


def _describe(partition: Partition) -> str:
    if partition.preempt_mode == "OFF":
        return "its jobs are not preempted"
    grace = f"GraceTime {partition.grace_seconds:.0f} s"
    remedy = "; what cannot requeue itself needs `runner retry`" if partition.preempt_mode == "CANCEL" else ""
    return f"its jobs make way for others (PreemptMode {partition.preempt_mode}, {grace}{remedy})"


def _per_node(cluster: Cluster, partition: Partition, gpus: int) -> list[Line]:
    kinds = [kind for kind in partition.nodes if kind.gpus >= gpus]
    node = max(kinds, key=lambda kind: (kind.gpus == gpus, kind.count), default=partition.node)
    if not gpus:
        return []
    lines = [Line("gpus_per_node", gpus, "a trial takes as many GPUs as it has ranks")]
    cpus = max(1, node.cpus // max(node.gpus, 1))
    lines.append(Line("cpus_per_task", cpus, f"per rank: the {node.cpus} CPUs of a node over its {node.gpus} GPUs"))
    share = int(node.memory_mb * USABLE_MEMORY / 1024 / max(node.gpus, 1))
    if cluster.counts_memory and share:
        why = f"of a job on each of its nodes, here the share of one GPU ({partition.default_memory} without it)"
        lines.append(Line("memory_gb", share, f"{why}; more for trials of more ranks"))
    return lines


def _lead(partition: Partition, minutes: int) -> Line:
    grace = partition.grace_seconds
    if grace > SLACK_SECONDS:
        lead, why = min(grace, LONGEST_LEAD_SECONDS), f"what a preemption leaves, too (GraceTime {grace:.0f} s)"
    else:
        lead, why = USUAL_LEAD_SECONDS, f"time to save; Slurm may be {SLACK_SECONDS} s off"
    return Line("signal_lead_seconds", int(min(lead, minutes * 60 - 1)), why)
