"""What Slurm's tools print, as values.

A job id is `123`, or `123_4` for element 4 of array 123. Times are unix seconds.
"""

import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

SQUEUE = "squeue", "-h", "-r", "-t", "all", "-o", "%i|%T|%N|%S|%e|%r"
SACCT_FIELDS = "JobID,State,ExitCode,NodeList,Start,End,Reason"

UNDECIDED = ("RUNNING", "SIGNALING")
"""States of a job of which nobody has decided yet that it ends."""

FATAL_SIGNALS = (4, 6, 7, 8, 9, 10, 11, 12, 15)


@dataclass(frozen=True)
class JobInfo:
    """What Slurm says about one job or one element of an array."""

    job_id: str
    state: str
    """One word: PENDING, RUNNING, COMPLETING, COMPLETED, FAILED, CANCELLED, TIMEOUT, NODE_FAIL, ..."""
    nodes: str
    """As Slurm writes lists: `node[1-3,7]`."""
    start: float | None
    end: float | None
    """When it ended; when its time is up, while it runs."""
    reason: str
    exit_code: int | None = None
    """Known to sacct alone."""
    signal: int | None = None
    """The signal that ended it, 0 if none did; known to sacct alone."""

    @property
    def shell_code(self) -> int:
        """The exit code as a shell has it, 128 + N for signal N: sacct takes those 128 away."""
        if self.signal:
            return 128 + self.signal
        code = self.exit_code or 0
        return code + 128 if code in FATAL_SIGNALS else code


@dataclass(frozen=True)
class Node:
    """A node as it is configured, whether it is up or not; one for each of its partitions."""

    partition: str
    cpus: int
    memory_gb: float
    gpus: int


def parse_squeue(text: str) -> dict[str, JobInfo]:
    """Output of SQUEUE."""
    found = {}
    for line in text.splitlines():
        job_id, state, nodes, start, end, reason = line.split("|", 5)
        found[job_id] = JobInfo(job_id, state, nodes, parse_time(start), parse_time(end), reason)
    return found


def parse_sacct(text: str) -> dict[str, JobInfo]:
    """Output of sacct in SACCT_FIELDS; elements that wait together share a line and get one each."""
    found = {}
    for line in text.splitlines():
        names, state, exit_code, nodes, start, end, reason = line.split("|", 6)
        code, _, signal = exit_code.partition(":")
        for job_id in parse_elements(names):
            found[job_id] = JobInfo(
                job_id,
                state.split()[0],  # "CANCELLED by 0"
                nodes if nodes != "None assigned" else "",
                parse_time(start),
                parse_time(end),
                reason,
                int(code or 0),
                int(signal or 0),
            )
    return found


def parse_nodes(text: str) -> list[Node]:
    """Lines of partition, CPUs, memory in MB and generic resources such as `gpu:a100:4(S:0-1),shard:8`."""
    found = []
    for line in text.splitlines():
        partition, cpus, memory_mb, resources = line.split("|", 3)
        found.append(Node(partition, int(cpus), int(memory_mb) / 1024, count_gpus(resources)))
    return found


def count_gpus(resources: str) -> int:
    """GPUs of a node's generic resources, of all types: a type may begin with a digit, as `gpu:3090:4` does."""
    return sum(int(count) for count in re.findall(r"\bgpu:(?:[^:,()]+:)?(\d+)", resources))


def parse_elements(name: str) -> list[str]:
    """`7_[0-2,5%1]`, elements of an array that wait, as `7_0`, `7_1`, `7_2`, `7_5`; other ids as they are."""
    array, bracket, indices = name.partition("_[")
    if not bracket:
        return [name]
    found: list[str] = []
    for span in indices.split("%")[0].rstrip("]").split(","):
        first, _, rest = span.partition("-")
        last, _, step = rest.partition(":")
        found += [f"{array}_{index}" for index in range(int(first), int(last or first) + 1, int(step or 1))]
    return found


def parse_record(line: str) -> dict[str, str]:
    """One line of `scontrol show -o`: KEY=VALUE with blanks between, and blanks within some values."""
    return dict(re.findall(r"(?:^|(?<=\s))([A-Z][\w:/]*)=(.*?)(?=\s+[A-Z][\w:/]*=|\s*$)", line))


def parse_config(text: str) -> dict[str, str]:
    """Output of `scontrol show config`."""
    return dict(re.findall(r"^(\w+)\s+= (.*?)\s*$", text, re.MULTILINE))


def parse_time(text: str) -> float | None:
    """Unix seconds of a time as Slurm prints it; None for Unknown, N/A, None and the like."""
    if text.isdigit():
        return float(text)
    with suppress(ValueError):
        return datetime.fromisoformat(text).timestamp()
    return None


def parse_duration(text: str) -> float | None:
    """Seconds of `1-02:03:04`, `02:03:04`, `30 sec` or `8`; None for UNLIMITED and the like."""
    clock = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", text)
    if clock:
        days, hours, minutes, seconds = (int(part or 0) for part in clock.groups())
        return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
    plain = re.fullmatch(r"(\d+)(?: sec)?", text)
    return float(plain[1]) if plain else None
