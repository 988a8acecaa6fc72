"""Whenever the process dies or the power goes, the reader finds what was acknowledged last, or something newer.

A kill alone cannot show that an fsync is missing: what a process wrote outlives it. So the real writer is recorded and
every disk that may be left at every moment is given to the real reader.
"""

import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch

from runner import background, checkpoint, lineage
from runner.attempt import Attempt, claim
from runner.config import TrackingConfig
from runner.errors import CheckpointError
from runner.files import read_rows
from runner.group import Group
from runner.rundir import RunDir
from runner.tracking import Tracker
from tests.power_loss import Disk, Recording, disks_after, materialise, recording


def content(step: int) -> tuple[dict, dict]:
    return {"method": {"weight": torch.full((50,), float(step))}, "optimizer": {}, "step": step}, {"rng": step}


def save_waiting(run: RunDir, attempt: Attempt, step: int) -> None:
    checkpoint.save(run, Group(), attempt, step, *content(step), {})


def save_in_background(run: RunDir, attempt: Attempt, step: int) -> None:
    """Of two ranks, one after the other; each would do the same beside the other."""
    for rank in (1, 0):
        background.write(run, Group(rank=rank, world=2), attempt, step, *content(step), {}, lambda: None)


def train_twice(run: RunDir, save, record: Recording) -> None:
    """Two attempts with two checkpoints each, a row of metrics before all but the first, and pruning behind each."""
    for first in (1, 3):
        attempt = claim(run)
        checkpoint.clean(run)
        name, _ = lineage.newest_valid(run)
        attempt.record_start(job_id="1", launch=str(first), world=1, step=0, steps=4, resumed_from=name)
        tracker = Tracker(attempt, TrackingConfig())
        tracker.begin(first - 1)
        for step in (first, first + 1):
            if step > 1:
                tracker.write(step, {"train/loss": 1.0 / step})
            tracker.sync()
            save(run, attempt, step)
            record.acknowledge(step)
            checkpoint.prune(run, keep=1, keep_every_steps=None, best_step=None)


def judge(disk: Disk, folder: Path, acknowledged: int) -> str:
    """What the reader makes of a disk: "good", or what is wrong."""
    materialise(disk, folder)
    try:
        name, _ = lineage.newest_valid(RunDir(folder))
    except (CheckpointError, ValueError):
        return "unrecoverable"
    finally:
        rows = {row["step"] for row in read_rows(RunDir(folder).metrics)}
        shutil.rmtree(folder)
    step = 0 if name is None else int(name[5:13])
    if step < acknowledged:
        return "older than acknowledged"
    return "good" if rows >= set(range(2, step + 1)) else "rows missing"


def count_states(folder: Path, save, without: str = "") -> tuple[Counter[str], int]:
    """How many disks there may be after all crash points, by what the reader makes of them; and the crash points."""
    run = RunDir(folder / "trial")
    run.path.mkdir(parents=True)
    with recording(run.path) as record:
        train_twice(run, save, record)
    folders = {0, *(operation.node for operation in record.operations if operation.is_folder)}
    synced = {"folders": lambda node: node in folders, "files": lambda node: node not in folders}
    operations = [
        operation
        for operation in record.operations
        if not (without and operation.kind == "sync" and synced[without](operation.node))
    ]
    judged: dict[tuple, str] = {}
    found: Counter[str] = Counter()
    for length in range(len(operations) + 1):
        prefix = operations[:length]
        acknowledged = max((operation.step for operation in prefix if operation.kind == "ack"), default=0)
        for _, disk in disks_after(prefix):
            key = (acknowledged, tuple(sorted(disk.items())))
            if key not in judged:
                judged[key] = judge(disk, folder / "disk", acknowledged)
                found[judged[key]] += 1
    return found, len(operations)


@pytest.mark.parametrize("save", [save_waiting, save_in_background])
def test_no_crash_and_no_loss_of_power_costs_an_acknowledged_checkpoint(memory_path, save):
    found, points = count_states(memory_path, save)
    print(f"\n{save.__name__}: {points} crash points, {found.total()} disks, {found.total() - found['good']} bad")
    assert found.total() > points > 100
    assert set(found) == {"good"}, found


@pytest.mark.parametrize("missing", ["folders", "files"])
def test_without_an_fsync_the_model_finds_what_would_be_lost(memory_path, missing):
    found, points = count_states(memory_path, save_waiting, without=missing)
    print(f"\nwithout fsync of {missing}: {points} crash points, {found.total()} disks, {dict(found)}")
    assert found["unrecoverable"] + found["older than acknowledged"] > 0
