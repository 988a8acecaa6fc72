"""Slurm's reasons why a job waits, in words, with what can be done; those that no waiting helps are marked."""

import re
from dataclasses import dataclass

MEND = "mend the profile, then `runner cancel` and `runner retry --on` it"
RELEASE = "`scontrol release {job}` lets it go"
WAIT = "jobs that end make room"


@dataclass(frozen=True)
class Reason:
    """Why a job waits."""

    words: str
    remedy: str = ""
    blocked: bool = False
    """It will never start unless somebody does something."""


_NODES_AWAY = Reason("nodes that it needs are down, drained or reserved", "the nodelist or constraint may be given up")

TABLE = {
    "Priority": Reason("jobs of higher priority come first"),
    "Resources": Reason("waits for nodes to become free"),
    "JobArrayTaskLimit": Reason("as many trials run as `parallel` of the profile allows"),
    "BeginTime": Reason("not before {start}"),
    "Dependency": Reason("waits for another job to end"),
    "Licenses": Reason("waits for a license"),
    "Reservation": Reason("waits for its reservation to begin"),
    "Cleaning": Reason("its last launch is still being cleaned up"),
    "Prolog": Reason("its node is being prepared"),
    "FedJobLock": Reason("waits for another cluster of the federation"),
    "NodeDown": Reason("a node that it needs is down"),
    "SystemFailure": Reason("a failure of Slurm, its network or its file system"),
    "PartitionDown": Reason("its partition starts no jobs for now"),
    "PartitionInactive": Reason("its partition is closed"),
    "QOSUsageThreshold": Reason("its QOS is used too much for now"),
    "ReqNodeNotAvail": _NODES_AWAY,
    "ReqNodeNotAvail, Reserved for maintenance": Reason(
        "a maintenance begins before its time would be up", "a lower time_minutes may fit in before"
    ),
    "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions": _NODES_AWAY,
    "JobHeldUser": Reason("held by its user", RELEASE, True),
    "JobHeldAdmin": Reason("held by an administrator", "ask the site why", True),
    "JobHoldMaxRequeue": Reason("held, requeued too often for this site", RELEASE, True),
    "job requeued in held state": Reason("held when it was requeued", RELEASE, True),
    "launch failed requeued held": Reason(
        "held after a node failed to launch it", f"{RELEASE}; tell the site if it comes again", True
    ),
    "DependencyNeverSatisfied": Reason("the job that it waits for has failed", "cancel and retry it", True),
    "DeadLine": Reason("its deadline cannot be kept", MEND, True),
    "BadConstraints": Reason("no node has what it asks for", MEND, True),
    "MaxMemPerLimit": Reason("asks for more memory than the site allows", MEND, True),
    "PartitionTimeLimit": Reason("asks for more time than its partition allows", MEND, True),
    "PartitionNodeLimit": Reason("asks for more or fewer nodes than its partition allows", MEND, True),
    "PartitionConfig": Reason("asks for what its partition does not allow", MEND, True),
    "AccountNotAllowed": Reason("its partition is not open to its account", MEND, True),
    "QOSNotAllowed": Reason("its partition or account is not open to its QOS", MEND, True),
    "InvalidAccount": Reason("its account does not exist", MEND, True),
    "InvalidQOS": Reason("its QOS does not exist", MEND, True),
}

_OWNERS = {"QOS": "its QOS", "Assoc": "its account", "": "its account"}
_THINGS = {
    "cpu": "CPUs",
    "gres": "GPUs",
    "mem": "memory",
    "memory": "memory",
    "node": "nodes",
    "jobs": "running jobs",
    "submitjob": "jobs in the queue",
    "submitjobs": "jobs in the queue",
    "wall": "time",
    "wallduration": "time",
    "license": "licenses",
    "billing": "billing units",
    "bb": "burst buffer",
    "energy": "energy",
    "unknown": "some resource",
}
_LIMIT = re.compile(
    rf"(?P<owner>QOS|Assoc|)(?P<kind>Grp|Max|Min)(?P<thing>{'|'.join(sorted(_THINGS, key=len, reverse=True))})"
    r"(?P<minutes>RunMinutes|Minutes|)(?P<per>PerJob|PerNode|PerUser|PerAccount|)(NotSatisfied)?(Limit)?",
    re.IGNORECASE,
)


def explain(reason: str) -> Reason | None:
    """What a reason means, as squeue or sacct print it; None for one that is not known here."""
    name = reason.replace("_", " ").strip("() ")
    return TABLE.get(name) or TABLE.get(name.partition(",")[0]) or _explain_limit(name)


def _explain_limit(name: str) -> Reason | None:
    """The limits of associations and of QOS, whose names are made of parts: QOSMaxCpuPerUserLimit."""
    match = _LIMIT.fullmatch(name)
    if match is None:
        return None
    owner, thing = _OWNERS[match["owner"]], _THINGS[match["thing"].lower()]
    amount = f"{thing} times minutes" if match["minutes"] else thing
    if match["kind"] == "Min":
        return Reason(f"asks for less {amount} than {owner} demands", MEND, True)
    if match["per"] in ("PerJob", "PerNode"):
        return Reason(f"asks for more {amount} than {owner} allows a {match['per'][3:].lower()}", MEND, True)
    if match["minutes"] == "Minutes" or (match["kind"], match["thing"]) == ("Grp", "Wall"):
        return Reason(f"{owner} has used up its {amount}", "ask for more, or choose another account or QOS", True)
    whose = {"PerUser": "a user", "PerAccount": "an account", "": "all its jobs"}[match["per"]]
    return Reason(f"{owner} allows {whose} no more {amount} at a time", WAIT)


def describe(reason: str, job_id: str, start: str) -> tuple[str, bool]:
    """A reason in words, Slurm's own in brackets, and whether it is blocked; an unknown one as it is.

    `start` is when the job may begin, in words.
    """
    if reason in ("", "None"):
        return "", False
    found = explain(reason)
    if found is None:
        return reason, False
    remedy = f"; {found.remedy}" if found.remedy else ""
    return f"{found.words} ({reason}){remedy}".replace("{job}", job_id).replace("{start}", start), found.blocked
