"""Whatever a disk does to a checkpoint is noticed, and the older one is used."""

import json
import random
from pathlib import Path

import torch

from runner import background, lineage
from runner.group import Group
from runner.rundir import RunDir
from tests.test_checkpoint import make_run, start

CORRUPTIONS = 1000


def save_on_two_ranks(run: RunDir, attempt, step: int) -> Path:
    shared = {"method": {"weight": torch.full((50,), float(step))}, "optimizer": {}, "step": step}
    for rank in (1, 0):
        group = Group(rank=rank, world=2)
        background.write(run, group, attempt, step, shared, {"rng": rank}, {"trial": "t"}, lambda: None)
    return run.checkpoints / lineage.name_of(step, attempt.number)


def corrupt(file: Path, chance: random.Random) -> str:
    """Flip some bits of one byte, cut the end off, or take the file away; what was done."""
    whole = file.read_bytes()
    match chance.choice(["flip", "truncate", "delete"]):
        case "flip":
            position, bits = chance.randrange(len(whole)), chance.randrange(1, 256)
            file.write_bytes(whole[:position] + bytes([whole[position] ^ bits]) + whole[position + 1 :])
            return f"{file.name}: byte {position} ^ {bits}"
        case "truncate":
            size = chance.randrange(len(whole))
            file.write_bytes(whole[:size])
            return f"{file.name}: cut to {size} bytes"
        case _:
            file.unlink()
            return f"{file.name}: deleted"


def test_a_thousand_corruptions_are_detected_and_the_older_checkpoint_is_used(memory_path):
    run, chance, missed = make_run(memory_path / "trial"), random.Random(0), []
    attempt = start(run)
    older, newest = (save_on_two_ranks(run, attempt, step) for step in (1, 2))
    files = sorted(newest.iterdir())
    assert [file.name for file in files] == ["manifest.json", "rank_00000.pt", "rank_00001.pt"]
    for _ in range(CORRUPTIONS):
        file = chance.choice(files)
        whole = file.read_bytes()
        done = corrupt(file, chance)
        name, refused = lineage.newest_valid(run)
        if name != older.name or len(refused) != 1:
            missed.append(done)
        file.write_bytes(whole)
    assert lineage.newest_valid(run) == (newest.name, [])
    print(f"\n{CORRUPTIONS - len(missed)} of {CORRUPTIONS} corruptions detected, each with the older checkpoint used")
    assert not missed, missed[:5]


def test_a_checkpoint_of_the_first_format_is_read(tmp_path):
    """Its manifest says nothing of itself."""
    run = make_run(tmp_path / "trial")
    manifest = save_on_two_ranks(run, start(run), 1) / "manifest.json"
    document = json.loads(manifest.read_text())
    del document["sha256"]
    manifest.write_text(json.dumps({**document, "format": 1}))
    assert lineage.verify(run, "step_00000001.00001") is None
    manifest.write_text(json.dumps(document))
    assert lineage.verify(run, "step_00000001.00001") == "its manifest is not what was written"
