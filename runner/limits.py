"""What the cluster takes of a user: elements of an array, and jobs at a time, read once for each submission."""

import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

from runner import slurm
from runner.arrays import Bound
from runner.client import ask
from runner.errors import SubmissionError
from runner.profile import Profile
from runner.slurm_text import Node, parse_duration

ASSOCIATION_FIELDS = ("DefaultAccount", "Account", "Partition", "QOS", "DefaultQOS", "MaxSubmitJobs", "MaxWall")
QOS_FIELDS = ("Name", "Flags", "MaxSubmitJobsPerUser", "MaxSubmitJobsPerAccount", "GrpSubmitJobs", "MaxWall")
DEFAULT_ARRAY_SIZE = "1001"
SHARE_ASKED_ABOUT = 0.1
"""Of MaxJobCount: a submission below this is small beside what the cluster keeps, and nobody counts all of it."""


@dataclass(frozen=True)
class Longest:
    """The longest that a job may run; Slurm lets one that asks for more wait for ever."""

    seconds: float
    words: str
    """Slurm's name for it, and whose it is."""


@dataclass(frozen=True)
class Limits:
    """What a submission has to fit into."""

    array_size: int
    """Elements of one array; MaxArraySize bounds the index, so they are just as many."""

    bounds: tuple[Bound, ...] = ()
    longest: Longest | None = None
    cluster_name: str | None = None
    """None where the controller does not answer."""


@dataclass(frozen=True)
class Cluster:
    """What the controller says of itself; empty where it does not answer."""

    config: Mapping[str, str] = field(default_factory=dict)
    partitions: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By name, all that this user may see."""

    nodes: tuple[Node, ...] = ()

    def partitions_of(self, site: Profile) -> dict[str, Mapping[str, str]]:
        """The partitions that a profile names, as far as there are such; else the default one."""
        if site.partition is None:
            return {name: facts for name, facts in self.partitions.items() if facts.get("Default") == "YES"}
        return {name: self.partitions[name] for name in site.partition.split(",") if name in self.partitions}

    @property
    def name(self) -> str | None:
        return self.config.get("ClusterName", "").lower() or None

    @property
    def array_size(self) -> int:
        """How many elements an array may have; 1 where there are no arrays."""
        sizes = [int(self.config.get("MaxArraySize", DEFAULT_ARRAY_SIZE))]
        if lower := re.search(r"\bmax_array_tasks=(\d+)", self.config.get("SchedulerParameters", "")):
            sizes.append(int(lower[1]))
        return max(min(sizes), 1)


@dataclass(frozen=True)
class Accounts:
    """What the accounts say of a user and of all QOS, a mapping a table line, by the names of fields."""

    associations: tuple[Mapping[str, str], ...]
    """Of the user."""

    tree: Mapping[str, Mapping[str, str]]
    """All accounts by name, each with the account that it is part of."""

    qos: Mapping[str, Mapping[str, str]]

    def above(self, account: str) -> list[str]:
        """An account, the one that it is part of, and so on."""
        chain: list[str] = []
        while account and account not in chain:
            chain.append(account)
            account = self.tree.get(account, {}).get("ParentName", "")
        return chain

    def below(self, account: str) -> tuple[str, ...]:
        """An account and all that are part of it."""
        return tuple(name for name in self.tree if account in self.above(name))

    def association(self, account: str, partition: str) -> Mapping[str, str]:
        """The user's row for an account, of the partition alone where there is one; empty for none."""
        rows = [row for row in self.associations if row["Account"] == account]
        exact = [row for row in rows if row["Partition"] == partition]
        return next(iter(exact + [row for row in rows if not row["Partition"]]), {})


@dataclass(frozen=True)
class Job:
    """By what limits go: of a job that waits or runs, or of the next one."""

    user: str
    account: str
    qos: str
    partition: str


Same = Mapping[str, tuple[str, ...]]
"""Field of a Job -> what it may be."""


@dataclass(frozen=True)
class Cap:
    """A limit on jobs that agree in some fields."""

    limit: int
    words: str
    same: Same

    def bound(self, jobs: Iterable[Job]) -> Bound:
        """The limit with the number of those that count."""
        there = sum(all(getattr(job, field) in values for field, values in self.same.items()) for job in jobs)
        return Bound(self.limit, there, self.words)


def read_cluster() -> Cluster:
    """Asks the controller. Where it says nothing nothing is known, and sbatch decides."""
    try:
        partitions = {facts["PartitionName"]: facts for facts in slurm.partitions()}
        return Cluster(slurm.show_config(), partitions, tuple(slurm.nodes()))
    except SubmissionError:
        return Cluster()


def read_limits(site: Profile, count: int, cluster: Cluster) -> Limits:
    """The limits for `count` more jobs of a profile.

    Whoever does not answer limits nothing here: sbatch knows.
    """
    most = read_number(cluster.config.get("MaxJobCount", "")) or 0
    bounds, longest = [], None
    if count > most * SHARE_ASKED_ABOUT > 0:
        with suppress(SubmissionError):
            there = len(ask("squeue", "-h", "-r", "-t", "all", "-o", "%i").splitlines())
            # As many as MaxJobCount itself are one too many, and what has just ended still counts.
            bounds.append(Bound(most - 1, there, "MaxJobCount of the cluster"))
    if re.search(r"limits|safe|all", cluster.config.get("AccountingStorageEnforce", "")):
        with suppress(SubmissionError):
            accounts = read_accounts(cluster.config.get("ClusterName", ""))
            job = next_job(site, accounts, cluster)
            longest = find_longest(job, accounts, cluster)
            bounds += _read_bounds(list_caps(job, accounts, cluster))
    return Limits(cluster.array_size, tuple(bounds), longest, cluster.name)


def read_accounts(cluster: str) -> Accounts:
    """What `sacctmgr` says of this user on a cluster. Raises: SubmissionError when it does not answer."""
    where = [f"cluster={cluster}"]
    tables = {
        ("user", *where, f"name={slurm.user_name()}", "withassoc"): ASSOCIATION_FIELDS,
        ("assoc", *where, "user="): ("Account", "ParentName", "GrpSubmitJobs"),
        ("qos",): QOS_FIELDS,
    }
    # Each takes its time to reach the accounts, wherever they are.
    with ThreadPoolExecutor(len(tables)) as pool:
        associations, tree, qos = pool.map(_show, tables, tables.values())
    return Accounts(tuple(associations), {row["Account"]: row for row in tree}, {row["Name"]: row for row in qos})


def next_job(site: Profile, accounts: Accounts, cluster: Cluster) -> Job:
    """As what a job of a profile will count; "" for what is not known."""
    account = site.account or next((row["DefaultAccount"] for row in accounts.associations), "")
    partition = next(iter(cluster.partitions_of(site)), "")
    row = accounts.association(account, partition)
    allowed = row.get("QOS", "").split(",")
    only = allowed[0] if len(allowed) == 1 else ""
    return Job(slurm.user_name(), account, site.qos or row.get("DefaultQOS") or only or "normal", partition)


Level = tuple[str, Mapping[str, str], Same]
"""A name, its limits by Slurm's names of them, and what jobs that count have in common."""


def _levels(own: Job, accounts: Accounts, cluster: Cluster) -> list[Level]:
    """Whose limits hold for a job, in Slurm's order: of each kind the first that is set."""
    of_partition = cluster.partitions.get(own.partition, {}).get("QoS", "N/A")
    # Of a partition's own QOS everything in the partition counts.
    levels: list[tuple[str, Same]] = [
        (of_partition, {"partition": (own.partition,)}),
        (own.qos, {"qos": (own.qos,)}),
    ]
    if "OverPartQOS" in accounts.qos.get(own.qos, {}).get("Flags", ""):
        levels.reverse()
    row = accounts.association(own.account, own.partition)
    of_account = {"MaxSubmitJobsPerUser": row.get("MaxSubmitJobs", ""), "MaxWall": row.get("MaxWall", "")}
    tables: list[Level] = [(f"QOS {name}", accounts.qos.get(name, {}), same) for name, same in levels]
    return [*tables, (f"account {own.account}", of_account, {"account": (own.account,)})]


def find_longest(own: Job, accounts: Accounts, cluster: Cluster) -> Longest | None:
    """The longest that a job may run; None where nobody says."""
    for name, table, _ in _levels(own, accounts, cluster):
        if (seconds := parse_duration(table.get("MaxWall", ""))) is not None:
            return Longest(seconds, f"MaxWall of {name}")
    return None


def list_caps(own: Job, accounts: Accounts, cluster: Cluster) -> list[Cap]:
    """The limits on jobs that wait or run."""
    whose: dict[str, Same] = {
        "MaxSubmitJobsPerUser": {"user": (own.user,)},
        "MaxSubmitJobsPerAccount": {"account": (own.account,)},
        "GrpSubmitJobs": {},
    }
    found: dict[str, Cap] = {}
    for name, table, same in _levels(own, accounts, cluster):
        for kind, who in whose.items():
            limit = read_number(table.get(kind, ""))
            if limit is not None and kind not in found:
                found[kind] = Cap(limit, f"{kind} of {name}", {**same, **who})
    if "GrpSubmitJobs" in found:
        return list(found.values())
    # Of these every one holds; in an account count the jobs of all that are part of it.
    of_groups = {
        name: read_number(accounts.tree.get(name, {}).get("GrpSubmitJobs", "")) for name in accounts.above(own.account)
    }
    return [
        *found.values(),
        *(
            Cap(limit, f"GrpSubmitJobs of account {name}", {"account": accounts.below(name)})
            for name, limit in of_groups.items()
            if limit is not None
        ),
    ]


def read_number(text: str) -> int | None:
    """A number as Slurm prints it; None for nothing, N/A and the like."""
    return int(text) if text.isdigit() else None


def parse_table(text: str, fields: tuple[str, ...]) -> list[dict[str, str]]:
    """Lines of `sacctmgr -nP show`; what is no such line is left out."""
    rows = [line.split("|") for line in text.splitlines()]
    return [dict(zip(fields, row, strict=True)) for row in rows if len(row) == len(fields)]


def _show(words: tuple[str, ...], fields: tuple[str, ...]) -> list[dict[str, str]]:
    return parse_table(ask("sacctmgr", "-nP", "show", *words, f"format={','.join(fields)}"), fields)


def _read_bounds(caps: list[Cap]) -> list[Bound]:
    if not caps:
        return []
    users = {user for cap in caps for user in cap.same.get("user", [""])}
    whose = [] if "" in users else ["-u", ",".join(users)]
    lines = ask("squeue", "-h", "-r", *whose, "-o", "%u|%a|%q|%P").splitlines()
    jobs = [Job(*line.split("|")) for line in lines if line.count("|") == 3]
    return [cap.bound(jobs) for cap in caps]
