"""Interruptions of any kind at any time, until the trial is done: it ends where the undisturbed one does."""

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from runner import lineage
from runner.faults import Proof
from runner.files import read_rows
from runner.local_ranks import LocalRanks
from runner.rundir import RunDir
from tests.experiments import fingerprint, prepare_run

pytestmark = [pytest.mark.slow, pytest.mark.ddp]

KINDS = ("kill one", "kill all", "preempt", "terminate", "preempt, then kill")
MOST_EACH = 8
"""Interruptions of one trial; then another one begins."""


def groups(world: int, precision: str, background: bool | str) -> dict[str, Any]:
    return {
        "train": {"steps": 150, "batch_size": 24, "precision": precision},
        "checkpoint": {"every_steps": 5, "background": background},
        "resources": {"ranks": world},
    }


def interrupt(ranks: LocalRanks, kind: str, rng: random.Random) -> None:
    processes = ranks.processes
    one = rng.randrange(len(processes))
    if kind in ("preempt", "terminate", "preempt, then kill"):
        pid = processes[one].pid
        if processes[one].is_alive() and pid is not None:
            os.kill(pid, signal.SIGTERM if kind == "terminate" else signal.SIGUSR2)
        if kind == "preempt, then kill":
            time.sleep(rng.uniform(0, 0.05))
            ranks.kill(rng.randrange(len(processes)))
    else:
        for rank in range(len(processes)) if kind == "kill all" else [one]:
            ranks.kill(rank)


def wait_to_strike(run: RunDir, ranks: LocalRanks, known: set[str], rng: random.Random) -> None:
    """Until a new checkpoint has been committed (most of the time), and a random moment more."""
    deadline = time.monotonic() + 60
    if rng.random() < 0.85:
        while not set(lineage.list_names(run)) - known and all(p.is_alive() for p in ranks.processes):
            assert time.monotonic() < deadline, f"no new checkpoint; see {run.logs}"
            time.sleep(0.005)
    time.sleep(rng.uniform(0, 0.3))


def torment(run: RunDir, world: int, most: int, rng: random.Random, counts: Counter[str]) -> None:
    """Train to the end through at most `most` interruptions."""
    for number in range(200):
        known = set(lineage.list_names(run))
        with LocalRanks(run, world, f"chaos-{number}", proof=Proof(prompt=True)) as ranks:
            kind = rng.choice(KINDS)
            if number < most:
                wait_to_strike(run, ranks, known, rng)
                alive = all(process.is_alive() for process in ranks.processes)
                interrupt(ranks, kind, rng)
                if alive:
                    counts["interruptions"] += 1
                    counts[kind] += 1
                    counts["after progress"] += bool(set(lineage.list_names(run)) - known)
                    counts["of resumed attempts"] += bool(known)
            ranks.wait(120)
        if run.result.exists():
            return
    raise AssertionError(f"not done; see {run.logs}")


def chaos(folder: Path, world: int, precision: str, background: bool | str, wanted: int, seed: int) -> None:
    rng, counts = random.Random(seed), Counter[str]()
    straight = prepare_run(folder / "straight", **groups(world, precision, background))
    torment(straight, world, 0, rng, counts)
    trials = 0
    while counts["interruptions"] < wanted:
        trials += 1
        run = prepare_run(folder / str(trials), **groups(world, precision, background))
        torment(run, world, min(wanted - counts["interruptions"], MOST_EACH), rng, counts)
        assert fingerprint(run) == fingerprint(straight), f"seed {seed}, trial {trials}"
        rows, expected = read_rows(run.metrics), read_rows(straight.metrics)
        assert [(row["step"], row["train/loss"]) for row in rows] == [
            (row["step"], row["train/loss"]) for row in expected
        ]
    print(f"{world} ranks, {precision}: {trials} trials equal in every bit after {dict(counts)}")
    # Interruptions before the first commit prove no more than that a start is exact.
    assert counts["after progress"] >= wanted // 2 and counts["of resumed attempts"] >= wanted // 2, counts


@pytest.mark.parametrize(
    ("world", "precision", "background", "wanted"), [(2, "fp16", "always", 13), (4, "bf16", False, 7)]
)
def test_twenty_interruptions(tmp_path, world, precision, background, wanted):
    chaos(tmp_path, world, precision, background, wanted, seed=world)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_two_hundred_interruptions(tmp_path, world, precision):
    # Each number of ranks, each precision and each way to save twice.
    background = "always" if (world == 2) is (precision == "bf16") else False
    chaos(tmp_path, world, precision, background, wanted=50, seed=100 + world)
