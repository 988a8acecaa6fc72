"""Why an attempt ended: one class for every end, found from evidence by a pure function.

A rank that fails says so in a crash file; its peers then lose their connection to it. So a rank that names a cause of
its own comes before those that lost a peer, and one that left no word before those that could: it was killed.
"""

import re
from dataclasses import dataclass, field
from typing import TypeVar

from runner.signs import Sign, read_log
from runner.slurm_text import UNDECIDED

T = TypeVar("T")

VICTIMS = ("peer crash", "hang")
"""What a rank says when the fault is likely that of another rank; a HangError names the rank that hung itself."""

BY_STATE = {
    "NODE_FAIL": "node failure",
    "BOOT_FAIL": "node failure",
    "PREEMPTED": "preempted",
    "TIMEOUT": "time limit",
    "DEADLINE": "time limit",
    "OUT_OF_MEMORY": "host out of memory",
    "CANCELLED": "cancelled",
    "REVOKED": "cancelled",
    "REQUEUED": "terminated",
    "REQUEUE_HOLD": "terminated",
    "SPECIAL_EXIT": "terminated",
}
"""What a state of Slurm says about a launch that has ended."""

BY_SIGNAL = {7: "I/O error", 15: "terminated"}
"""Signals that are no plain kill: a page that could not be read, and an order to go."""

START_UP_SIGNALS = (10, 12)
"""USR1 and USR2: they end a process that has not got as far as listening to them."""

NODES_OWN = ("Communication connection failure", "Socket timed out", "TMPDIR", "rolog failed", "Zero Bytes were")
"""Launches that fail for a reason of the node's; a program that is not found may be missing everywhere."""

UNDER_WAY = (*UNDECIDED, "LOCAL", "FAILED")
"""States in which nobody but the runner says what follows; in all others the scheduler has decided already."""

ORDERS = ("preempted", "time limit", "terminated", "cancelled", "node failure")
"""Ends that the scheduler brought about, as the last lines of a log name them."""

UNTOLD = "STARTED AGAIN"
"""In place of a state, where a job is started again and no account says why: its log may, else its node failed."""


@dataclass(frozen=True)
class Crash:
    """What one rank left when it failed."""

    rank: int
    cause: str
    error: str = ""
    time: float = 0.0
    step: int | None = None
    signature: str | None = None
    """The error's type and the innermost function of this package that it came through."""

    @property
    def is_victim(self) -> bool:
        return self.cause in VICTIMS and not self.error.startswith("HangError")


@dataclass(frozen=True)
class Evidence:
    """What is known of a launch that has ended."""

    exit_code: int = 1
    """Of the batch script: 128 + N for signal N."""

    job_state: str = "RUNNING"
    """The scheduler's word for the job; LOCAL without one."""

    started: bool = True
    """It got as far as the first row of an attempt."""

    crashes: tuple[Crash, ...] = ()
    world: int | None = None
    hosts: tuple[str, ...] = ()
    """The node of each rank."""

    log: str = field(default="", repr=False)
    """What the ranks, srun and the batch script printed last."""

    @property
    def signal(self) -> int:
        return self.exit_code - 128 if 128 < self.exit_code < 128 + 65 else 0

    @property
    def silent(self) -> tuple[int, ...]:
        """Ranks that left no word of their end."""
        spoken = {crash.rank for crash in self.crashes}
        return tuple(rank for rank in range(self.world or 0) if rank not in spoken)


@dataclass(frozen=True)
class Diagnosis:
    """The class of an end, and who brought it about."""

    cause: str
    reason: str
    rank: int | None = None
    """The culprit; the other ranks died because of it."""

    node: str | None = None
    """The node that is to blame, None where the fault is not a node's."""

    step: int | None = None
    signature: str | None = None


def diagnose(evidence: Evidence) -> Diagnosis:
    """Find the class of an end: what a rank says of itself, then the scheduler, the logs, and the exit code."""
    sign = read_log(evidence.log)
    own = sorted((crash for crash in evidence.crashes if not crash.is_victim), key=lambda crash: crash.time)
    if own and not (own[0].cause == "killed" and sign.cause == "host out of memory"):
        return _of_crash(own[0], evidence)
    if evidence.job_state not in UNDER_WAY:
        return _of_state(evidence, sign)
    if not evidence.started:
        return _of_launch(evidence, sign)
    return _of_silence(evidence, sign)


def _of_crash(crash: Crash, evidence: Evidence) -> Diagnosis:
    node = _host(evidence, crash.rank) if crash.cause == "node failure" or _is_bus_error(crash.error) else None
    return Diagnosis(crash.cause, f"rank {crash.rank}: {crash.error}", crash.rank, node, crash.step, crash.signature)


def _of_state(evidence: Evidence, sign: Sign) -> Diagnosis:
    told = sign.cause if sign.cause in ORDERS else "node failure" if evidence.job_state == UNTOLD else "terminated"
    cause = BY_STATE.get(evidence.job_state, told)
    untold = "it was started again, and no account says why"
    reason = untold if evidence.job_state == UNTOLD else f"the scheduler ended it: {evidence.job_state}"
    reason += f"; {sign.line}" if sign.cause == cause else ""
    node = (sign.node or _only(evidence.hosts)) if cause == "node failure" else None
    return Diagnosis(cause, reason, node=node)


def _of_launch(evidence: Evidence, sign: Sign) -> Diagnosis:
    if evidence.signal in START_UP_SIGNALS or "User defined signal" in sign.line:
        return Diagnosis("launch failed", f"signal {evidence.signal or ''} before anybody listened".replace("  ", " "))
    telling = sign.cause not in (None, "user code", "killed", *VICTIMS)
    cause = sign.cause if telling and sign.cause is not None else "launch failed"
    reason = sign.line or f"exit code {evidence.exit_code} before the attempt began"
    fault = cause == "node failure" or _is_bus_error(sign.line) or any(word in sign.line for word in NODES_OWN)
    return Diagnosis(cause, reason, _only(sign.ranks), (sign.node or _only(evidence.hosts)) if fault else None)


def _of_silence(evidence: Evidence, sign: Sign) -> Diagnosis:
    """No rank named a cause of its own: the culprit is one that could not."""
    told = sorted(evidence.crashes, key=lambda crash: crash.time)
    hung = [crash for crash in told if crash.cause == "hang"]
    rank = _culprit(evidence, sign)
    if sign.cause not in (None, "user code", "killed", "launch failed", *VICTIMS):
        fault = sign.cause == "node failure" or _is_bus_error(sign.line)
        node = (sign.node or _host(evidence, rank)) if fault else None
        return Diagnosis(str(sign.cause), sign.line, rank, node)
    if hung or (sign.cause == "hang" and not told):
        words = f"rank {hung[0].rank} waited in vain: {hung[0].error}" if hung else sign.line
        step, signature = (hung[0].step, hung[0].signature) if hung else (None, None)
        return Diagnosis("hang", words, rank, step=step, signature=signature)
    if told and not evidence.silent:
        first = told[0]
        return Diagnosis(
            "peer crash", f"rank {first.rank}: {first.error}", first.rank, None, first.step, first.signature
        )
    if sign.cause == "peer crash" and not told and not evidence.signal:
        return Diagnosis("peer crash", sign.line, rank)
    who = "a rank" if rank is None else f"rank {rank}"
    # srun's exit code is the largest of its tasks', and it ends the others with TERM: its first line knows better.
    cause = "killed" if sign.cause == "killed" else BY_SIGNAL.get(evidence.signal, "killed")
    node = _host(evidence, rank) if cause == "I/O error" else None
    reason = sign.line if sign.cause == "killed" else f"exit code {evidence.exit_code}"
    step = max((crash.step for crash in told if crash.step is not None), default=None)
    return Diagnosis(cause, f"{who} ended without a word: {reason}", rank, node, step)


def _culprit(evidence: Evidence, sign: Sign) -> int | None:
    """The silent rank: the one that srun or the others name, else the only one; None where it could be several."""
    told = (re.search(r"because of rank (\d+)", crash.error) for crash in evidence.crashes if crash.is_victim)
    for named in (sign.ranks, tuple(int(match[1]) for match in told if match)):
        rank = _only(tuple(rank for rank in named if not evidence.world or rank in evidence.silent))
        if rank is not None:
            return rank
    return _only(evidence.silent)


def _host(evidence: Evidence, rank: int | None) -> str | None:
    if rank is not None and rank < len(evidence.hosts):
        return evidence.hosts[rank]
    return _only(tuple(dict.fromkeys(evidence.hosts)))


def _only(values: tuple[T, ...]) -> T | None:
    distinct = tuple(dict.fromkeys(values))
    return distinct[0] if len(distinct) == 1 else None


def _is_bus_error(line: str) -> bool:
    return "Bus error" in line or "bus error" in line
