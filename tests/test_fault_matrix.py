"""Every kind of fault at every named place: the trial goes on and ends bit for bit where the undisturbed one does.

What each cell asks: the attempts after it resume, the last state and every row are those of the undisturbed trial,
nothing half-written is left, and what ended the attempt is written down.
"""

from pathlib import Path
from typing import Any

import pytest

from runner.evidence import read_crashes
from runner.faults import PLACES, Fault, Proof
from runner.files import read_rows
from runner.local_ranks import DONE, LEFT, LocalRanks
from runner.rundir import RunDir
from runner.verify import find_difference
from tests.experiments import prepare_run

pytestmark = [pytest.mark.slow, pytest.mark.ddp]

WORLD = 2
GROUPS: dict[str, Any] = {
    "train": {"steps": 14, "batch_size": 24, "precision": "bf16", "accumulate": 2},
    "data": {"limit": 144},
    "evaluate": {"probes": ["knn"], "every_steps": 6},
    "checkpoint": {"every_steps": 3, "keep": 2},
    "resources": {"ranks": WORLD},
}

EVERY_ATTEMPT = ("start", "meet", "join", "build", "restore", "warm", "result", "end")
ON_RANK_0 = ("checkpoint.manifest", "checkpoint.rename", "checkpoint.renamed", "checkpoint.prune")
KINDS = {
    "one is told to requeue": ("USR2", 1),
    "rank 0 is told to requeue": ("USR2", 0),
    "all are told to requeue": ("USR2", None),
    "all are told to end": ("TERM", None),
    "one is killed": ("KILL", 1),
    "rank 0 is killed": ("KILL", 0),
    "all are killed": ("KILL", None),
    "one raises": ("raise", 1),
    "the disk is full": ("full", 0),
    "the disk does not answer": ("input/output", 1),
    "one is slow": ("slow", 0),
}


def make_cells() -> list[tuple[str, str]]:
    """(place, kind); what only rank 0 passes only happens to rank 0, and disks fail where something is written."""
    cells = []
    for place in PLACES:
        for kind, (action, rank) in KINDS.items():
            on_disk = action in ("full", "input/output")
            if place in ON_RANK_0 and rank == 1:
                continue
            if on_disk and not place.startswith("checkpoint"):
                continue
            if place == "end" and action in ("raise", "slow"):
                continue
            cells.append((place, kind))
    return cells


CELLS = make_cells()
SHORT = CELLS[::5]
# A checkpoint is begun by rank 0.
STRIKING = [(place, kind) for place, kind in CELLS if place != "checkpoint" or KINDS[kind][1] != 1]


def train(run: RunDir, launch: str, faults: tuple[Fault, ...] = ()) -> list[int]:
    with LocalRanks(run, WORLD, launch, proof=Proof(faults, run.path / "journal", prompt=True)) as ranks:
        return ranks.wait(60)


@pytest.fixture(scope="session")
def straight(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    run = prepare_run(tmp_path_factory.mktemp("straight"), **GROUPS)
    assert train(run, "straight") == [DONE] * WORLD
    return run


def test_there_are_enough_cells():
    assert len(CELLS) >= 120 and len(SHORT) >= 40
    assert {place for place, _ in SHORT} | {kind for _, kind in SHORT} >= {*list(PLACES)[::2], *KINDS} - {"end"}


def check_cell(straight: RunDir, folder: Path, place: str, kind: str, **checkpoint: Any) -> None:
    action, rank = KINDS[kind]
    # In the middle of things: the second epoch, the second save; an attempt passes some places once.
    nth = 1 if place in EVERY_ATTEMPT or place.startswith("evaluate") else 2
    if place in ("step", "step.end", "forward", "backward", "update"):
        nth = 8
    run = prepare_run(folder, **{**GROUPS, "checkpoint": {**GROUPS["checkpoint"], **checkpoint}})
    codes = train(run, "first", (Fault(place, action, rank, nth),))
    check_end(run, codes, place, action)
    for number in range(3):
        if run.result.exists():
            break
        train(run, f"later-{number}")
    assert run.result.exists(), f"not done after three more launches; see {run.logs}"
    assert find_difference(straight, run, WORLD) is None
    assert [row["step"] for row in read_rows(run.metrics)] == [row["step"] for row in read_rows(straight.metrics)]
    assert not list(run.path.rglob(".tmp-*")) and not list(run.path.rglob("*.tmp"))


def check_end(run: RunDir, codes: list[int], place: str, action: str) -> None:
    """How the first launch ended is what the fault would make it, and is written down."""
    if action == "slow":
        assert codes == [DONE] * WORLD
    elif action == "KILL":
        assert -9 in codes
    elif action == "raise":
        assert 1 in codes
        if place not in ("start", "meet"):
            crashes = read_crashes(run, 1)
            assert any("InjectedError" in crash["error"] for crash in crashes), crashes
    elif action in ("full", "input/output"):
        assert codes == [DONE] * WORLD, "a checkpoint that cannot be written is told, and training goes on"
    else:
        # A rank that leaves before all have met leaves alone: the end of the job ends those that wait for it.
        waiting = {-9} if place in ("start", "meet") else set()
        assert set(codes) <= {DONE, LEFT} | waiting


@pytest.mark.parametrize(("place", "kind"), SHORT)
def test_a_fault_changes_nothing(tmp_path, straight, place, kind):
    check_cell(straight, tmp_path, place, kind)


@pytest.mark.nightly
@pytest.mark.parametrize(("place", "kind"), [cell for cell in STRIKING if cell not in SHORT])
def test_any_other_fault_changes_nothing(tmp_path, straight, place, kind):
    check_cell(straight, tmp_path, place, kind)


BACKGROUND_CELLS = [cell for cell in STRIKING if cell[0].startswith("checkpoint")]
NIGHTLY = [pytest.param(*cell, marks=pytest.mark.nightly) for cell in BACKGROUND_CELLS if cell not in SHORT[::3]]


@pytest.mark.parametrize(("place", "kind"), [*(cell for cell in BACKGROUND_CELLS if cell in SHORT[::3]), *NIGHTLY])
def test_a_fault_of_a_checkpoint_in_the_background_changes_nothing(tmp_path, straight, place, kind):
    check_cell(straight, tmp_path, place, kind, background="always")
