"""Kill a writer of checkpoints at random moments: `python -m tests.kill_fuzz [--kills N] [--folder DIR]`.

A process that has everything imported forks writers. Each goes on from the newest checkpoint, saves and prunes without
a pause, half of them in the background, and acknowledges each step through shared memory. A while after its first
acknowledgment it gets a SIGKILL; then the reader must find what was acknowledged last, or something newer, whole.
"""

import argparse
import json
import mmap
import os
import random
import signal
import struct
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch

from runner import background, checkpoint, lineage
from runner.attempt import claim
from runner.background import Background
from runner.errors import CheckpointError
from runner.group import Group
from runner.rundir import RunDir

VALUES = 20_000
LIFE_SECONDS = 0.03
"""A writer lives up to this long after its first acknowledgment: several saves."""

KILLS_PER_TRIAL = 50
PATIENCE_SECONDS = 60


def write_for_ever(run: RunDir, in_background: bool, acknowledged: mmap.mmap) -> None:
    """Save one step after the other."""
    attempt = claim(run)
    name, _ = lineage.newest_valid(run)
    step = int(name[5:13]) if name else 0
    attempt.record_start(job_id="1", launch=attempt.name, world=1, step=step, steps=0, resumed_from=name)
    checkpoint.clean(run)
    thread = Background()
    while True:
        step += 1
        shared = {"method": {"weight": torch.full((VALUES,), float(step))}, "optimizer": {}, "step": step}
        if in_background:
            thread.start(
                lambda check, step=step, shared=shared: background.write(
                    run, Group(), attempt, step, shared, {}, {}, check
                )
            )
            thread.collect()
        else:
            checkpoint.save(run, Group(), attempt, step, shared, {}, {})
        acknowledged[:8] = struct.pack("q", step)
        checkpoint.prune(run, keep=2, keep_every_steps=None, best_step=None)


def kill_one(run: RunDir, chance: random.Random, in_background: bool) -> int:
    """Let a writer live for a while; the last step that it acknowledged."""
    acknowledged = mmap.mmap(-1, 8)
    child = os.fork()
    if child == 0:
        try:
            write_for_ever(run, in_background, acknowledged)
        finally:
            os._exit(1)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while acknowledged[:8] == bytes(8):
        assert time.monotonic() < deadline, "no checkpoint in a minute"
        time.sleep(0.0005)
    time.sleep(chance.random() * LIFE_SECONDS)
    os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == -signal.SIGKILL, f"the writer ended by itself: {status}"
    return int(struct.unpack("q", acknowledged[:8])[0])


def judge(run: RunDir, acknowledged: int) -> str:
    try:
        name, _ = lineage.newest_valid(run)
    except CheckpointError:
        return "unrecoverable"
    if name is None or int(name[5:13]) < acknowledged:
        return "older than acknowledged"
    found = checkpoint.load(run, Group(), name, [])
    whole = torch.equal(found.shared["method"]["weight"], torch.full((VALUES,), float(found.step)))
    return "good" if whole else "wrong values"


def fuzz(folder: Path, kills: int, seed: int) -> Counter[str]:
    """How often the reader found what, and after how many kills something half-written lay about."""
    torch.set_num_threads(1)
    chance, found = random.Random(seed), Counter[str]()
    for kill in range(kills):
        run = RunDir(folder / str(kill // KILLS_PER_TRIAL))
        run.path.mkdir(exist_ok=True)
        found[judge(run, kill_one(run, chance, in_background=kill % 2 == 1))] += 1
        found["leftovers"] += any(run.checkpoints.glob(".*"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to write; default: a temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        print(json.dumps(fuzz(Path(folder), options.kills, options.seed)))


if __name__ == "__main__":
    main()
