"""Finished trials, read once: a cache beside them of what their files hold, which any scan makes anew.

Only trials with a result.json are kept, each with the size and the time of every file that was read. Whatever does
not match, in part or as a whole, is read from the run folders again, so that a registry that is deleted, damaged or
out of date costs time and nothing else. Small sweeps have none: reading them takes no longer.
"""

import contextlib
import gc
import json
import os
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.differences import split_groups
from runner.files import masked, read_rows, replacing
from runner.record_cache import SETTLING_SECONDS
from runner.rundir import RunDir
from runner.status import Ask, Row, read_statuses

NAME = ".registry.json"
"""In the folder of an experiment."""

FEWEST_TRIALS = 200
"""Trials that make a registry worth its file."""

_VERSION = 1
_FILES = ("config.yaml", "overrides.yaml", "attempts.jsonl", "result.json", "failure.json")
"""What decides whether a trial is done, and what it gave."""


@dataclass(frozen=True)
class Entry:
    """One trial of a sweep, as its files tell it."""

    run: RunDir
    state: str
    """A TrialState, or `pruned`."""

    overrides: dict[str, Any]
    metrics: dict[str, float]
    """Final ones, or the last ones of a trial that is not done."""

    groups: dict[str, str]
    """The text of config.yaml by top-level key."""

    flaw: str = ""
    """What of it cannot be read; none of those that are kept has any."""


@dataclass(frozen=True)
class Kept:
    """A trial that is done, and which files it was read from."""

    stamp: str
    entry: Entry


def read_entries(runs: list[RunDir], ask: Ask | None = None) -> list[Entry]:
    """Each trial of one experiment, in the order given; keeps those that are done for the next time."""
    if len(runs) < FEWEST_TRIALS:
        return _scan(runs, ask)
    folder = runs[0].path.parent
    with _no_collections():
        registry = read_registry(folder)
        stamps = {run.trial: read_stamp(run) for run in runs}
        kept = {trial: each for trial, each in registry.items() if stamps.get(trial) == each.stamp}
        # The stamps are older than what is read now: a change in between is found the next time.
        found = {entry.run.trial: entry for entry in _scan([run for run in runs if run.trial not in kept], ask)}
        now = time.time()
        fresh = {
            trial: Kept(stamps[trial], entry)
            for trial, entry in found.items()
            if entry.state == "done" and not entry.flaw and now - newest_seconds(stamps[trial]) > SETTLING_SECONDS
        }
        if fresh or len(kept) < len(registry):
            # A folder that cannot be written is no reason to show no results.
            with contextlib.suppress(OSError), masked(runs[0].umask()):
                write_registry(folder, kept | fresh)
        found |= {trial: each.entry for trial, each in kept.items()}
        return [found[run.trial] for run in runs]


def read_entry(row: Row) -> Entry:
    """What there is of a trial whose state is known."""
    record = row.record
    metrics = record.metrics if row.state == "done" or record.damaged else _last_values(row.run)
    # Its search ended it early: its metrics are shown, and do not count beside those of whole trials.
    state = "pruned" if (record.result or {}).get("pruned") and row.state == "done" else row.state
    flaw = row.note if record.damaged else record.flaw
    return Entry(row.run, state, record.overrides, metrics, split_groups(row.run), flaw)


def read_registry(folder: Path) -> dict[str, Kept]:
    """What is kept of an experiment, by trial; nothing where there is no registry, or a damaged one."""
    try:
        head, _, body = (folder / NAME).read_bytes().partition(b"\n")
        if head != _head(body):
            return {}
        document = json.loads(body)
        return {
            trial: _unpack(RunDir(folder / trial), packed, document) for trial, packed in document["trials"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        return {}


def write_registry(folder: Path, kept: dict[str, Kept]) -> None:
    """Replace the registry of an experiment as a whole; of two writers, the later one's stays."""
    texts: dict[tuple[str, str], int] = {}
    names: dict[tuple[str, ...], int] = {}
    trials = {
        trial: [
            each.stamp,
            each.entry.overrides,
            names.setdefault(tuple(each.entry.metrics), len(names)),
            list(each.entry.metrics.values()),
            [texts.setdefault(group, len(texts)) for group in each.entry.groups.items()],
        ]
        for trial, each in kept.items()
    }
    document = {"trials": trials, "names": list(names), "texts": list(texts)}
    body = json.dumps(document, separators=(",", ":")).encode()
    with replacing(folder / NAME) as file:
        file.write(_head(body) + b"\n" + body)


def read_stamp(run: RunDir) -> str:
    """Time in nanoseconds and size in bytes of each of _FILES; empty for one that is not there."""
    return " ".join([_time_and_size(f"{run.path}/{name}") for name in _FILES])


def newest_seconds(stamp: str) -> float:
    """Unix seconds of the last change of any file."""
    return max(int(each.partition(":")[0] or 0) for each in stamp.split(" ")) / 1e9


def _time_and_size(path: str) -> str:
    try:
        status = os.stat(path)
    except OSError:
        return ""
    return f"{status.st_mtime_ns}:{status.st_size}"


def _unpack(run: RunDir, packed: list[Any], document: dict[str, Any]) -> Kept:
    stamp, overrides, names, values, texts = packed
    metrics = dict(zip(document["names"][names], values, strict=True))
    groups = dict(document["texts"][text] for text in texts)
    return Kept(stamp, Entry(run, "done", overrides, metrics, groups))


def _head(body: bytes) -> bytes:
    """Tells a whole registry of this version from all else."""
    return json.dumps({"version": _VERSION, "crc32": zlib.crc32(body)}).encode()


def _scan(runs: list[RunDir], ask: Ask | None) -> list[Entry]:
    return [read_entry(row) for row in read_statuses(runs, ask)]


def _last_values(run: RunDir) -> dict[str, float]:
    values: dict[str, float] = {}
    for logged in read_rows(run.metrics):
        values |= {name: value for name, value in logged.items() if "/" in name}
    return values


@contextlib.contextmanager
def _no_collections() -> Iterator[None]:
    """A hundred thousand new objects, none of them garbage, set off collections that take most of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
