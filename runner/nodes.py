"""Nodes that broke trials: a note for each fault, and which nodes a cluster's jobs stay away from for a day.

ROOT/.nodes/<cluster>.jsonl holds one row a fault, each appended in a single write, so that jobs on many nodes write it
without a lock; rows are only ever added, and what they mean is decided when they are read.
"""

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.files import append_row, read_rows
from runner.rundir import RunDir

FOLDER = ".nodes"
EXCLUDED_SECONDS = 24 * 60 * 60
TRIALS = 2
"""A node that fails one trial may have met a bad trial; one that fails two within a day is bad itself."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


@dataclass(frozen=True)
class Excluded:
    """A node that jobs stay away from."""

    node: str
    until: float
    """Unix seconds."""

    why: str


def root_of(run: RunDir) -> Path:
    """The run root of a trial."""
    return run.path.parent.parent


def record_fault(run: RunDir, cluster: str, node: str, cause: str, reason: str, now: float | None = None) -> None:
    """Note that a node failed a trial; names that no cluster has are passed over."""
    if not (_NAME.fullmatch(cluster) and _NAME.fullmatch(node)):
        return
    folder = root_of(run) / FOLDER
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    row = {
        "time": time.time() if now is None else now,
        "node": node,
        "trial": f"{run.experiment}/{run.trial}",
        "cause": cause,
        "reason": reason[:300],
    }
    append_row(folder / f"{cluster}.jsonl", row)


def read_excluded(root: Path, cluster: str, now: float | None = None) -> list[Excluded]:
    """The nodes of a cluster that jobs stay away from now, by name."""
    return find_excluded(read_rows(root / FOLDER / f"{cluster}.jsonl"), time.time() if now is None else now)


def list_clusters(root: Path) -> list[str]:
    """The clusters on which some node has failed a trial."""
    return sorted(path.stem for path in (root / FOLDER).glob("*.jsonl"))


def find_excluded(rows: Iterable[dict[str, Any]], now: float) -> list[Excluded]:
    """Nodes that failed `TRIALS` different trials within a day, for a day from the last fault that made it so."""
    faults: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: float(row["time"])):
        faults.setdefault(row["node"], []).append(row)
    found = []
    for node, own in sorted(faults.items()):
        for row in reversed(own):
            near = [each for each in own if row["time"] - EXCLUDED_SECONDS < each["time"] <= row["time"]]
            trials = {each["trial"]: each["cause"] for each in near}
            if len(trials) >= TRIALS:
                until = row["time"] + EXCLUDED_SECONDS
                if until > now:
                    why = ", ".join(f"{cause} of {trial}" for trial, cause in trials.items())
                    found.append(Excluded(node, until, why))
                break
    return found


def merge(*lists: str | None) -> str:
    """Lists of nodes as Slurm writes them, joined, each name once; "" for none."""
    names = [name for text in lists if text and text != "(null)" for name in _split(text)]
    return ",".join(dict.fromkeys(names))


def _split(text: str) -> list[str]:
    """At the commas that are not inside brackets: `a[1,3],b`."""
    return re.findall(r"[^,\[]*(?:\[[^\]]*\][^,\[]*)+|[^,\[]+", text)
