"""A checkpoint in the background is one that was saved while training waited: whole or absent, of one step."""

import hashlib
import os
import threading
import time
from pathlib import Path

import pytest
import torch

from runner import background, checkpoint, lineage, saving
from runner.attempt import Attempt, SupersededError, claim
from runner.background import Background, GivenUpError
from runner.errors import CheckpointError
from runner.faults import NO_FAULTS, Fault, Faults, InjectedError, Proof
from runner.files import read_rows
from runner.group import Group
from runner.rank import run_rank
from runner.rendezvous import Place
from runner.rundir import RunDir
from runner.snapshot import Snapshot
from runner.state import _bytes_of
from tests.experiments import fingerprint, prepare_run, train_here, train_rank
from tests.ranks import run_ranks
from tests.test_checkpoint import make_run, start

ALONE = Group()


def content(step: int) -> tuple[dict, dict]:
    return {"method": {"weight": torch.full((6,), float(step))}, "optimizer": {}, "step": step}, {"rng": step}


def write(run: RunDir, attempt, step: int, check=lambda: None, group=ALONE, faults=NO_FAULTS) -> None:
    background.write(run, group, attempt, step, *content(step), {"trial": run.trial}, check, faults)


def test_it_is_the_same_checkpoint(tmp_path):
    run = make_run(tmp_path / "trial")
    attempt = start(run)
    write(run, attempt, 3)
    checkpoint.save(run, Group(), attempt, 4, *content(4), {"trial": run.trial})
    one, other = (run.checkpoints / lineage.name_of(step, 1) for step in (3, 4))
    assert sorted(file.name for file in one.iterdir()) == sorted(file.name for file in other.iterdir())
    name, refused = lineage.newest_valid(run)
    assert (name, refused) == (other.name, []) and lineage.verify(run, one.name) is None
    assert checkpoint.load(run, Group(), one.name, []).own == {"rng": 3}
    assert not list(run.checkpoints.glob(".*"))


def test_given_up_it_leaves_no_checkpoint_and_once_committing_it_is_one(tmp_path):
    run = make_run(tmp_path / "trial")
    attempt, work = start(run), Background()
    arrived, go_on = threading.Event(), threading.Event()

    class Gate(Faults):
        def at(self, place: str) -> None:
            if place == self.closed:
                arrived.set()
                go_on.wait()

    gate = Gate()
    for step, gate.closed in [(1, "checkpoint.file"), (2, "checkpoint.barrier"), (3, "checkpoint.manifest")]:
        arrived.clear(), go_on.clear()
        work.start(lambda check, step=step: write(run, attempt, step, check, faults=gate))
        arrived.wait()
        work.give_up()
        go_on.set()
        if step < 3:
            with pytest.raises(GivenUpError):
                work.collect()
        else:
            work.collect()
    assert lineage.list_names(run) == ["step_00000003.00001"]
    assert not list(run.checkpoints.glob(".*"))


@pytest.mark.parametrize("place", ["checkpoint", "checkpoint.file", "checkpoint.barrier", "checkpoint.rename"])
def test_a_full_disk_is_an_error_of_the_checkpoint(tmp_path, place):
    run = make_run(tmp_path / "trial")
    attempt = start(run)
    with pytest.raises(CheckpointError, match="No space left"):
        write(run, attempt, 1, faults=Faults([Fault(place, "full")]))
    assert lineage.list_names(run) == [] and not list(run.checkpoints.glob(".*"))
    # The same step, while training waits: what the failed one left is not in its way.
    checkpoint.save(run, Group(), attempt, 1, *content(1), {})
    assert lineage.newest_valid(run)[0] == "step_00000001.00001"


def test_a_superseded_attempt_does_not_commit(tmp_path):
    run = make_run(tmp_path / "trial")
    old = start(run)
    claim(run)
    with pytest.raises(CheckpointError) as caught:
        write(run, old, 2)
    assert isinstance(caught.value.__cause__, SupersededError)


def write_on_ranks(group: Group, folder: str, late: int, failing: int) -> list[str]:
    """Three checkpoints in the background beside collectives; the second fails on one rank, another is late."""
    run, work, ends = RunDir(Path(folder)), Background(), []
    attempt = Attempt(run, 1, group.rank)
    for step in (1, 2, 3):
        armed = [Fault("checkpoint.file", "full")] if (group.rank, step) == (failing, 2) else []
        slow = group.rank == late

        def check(slow: bool = slow) -> None:
            time.sleep(0.05 if slow else 0)

        faults = Faults(armed)
        work.start(lambda _, step=step, faults=faults, check=check: write(run, attempt, step, check, group, faults))
        for _ in range(20):
            group.agree_max(step)
        try:
            work.collect()
            ends.append("written")
        except CheckpointError as error:
            ends.append(str(error))
    group.barrier()
    return ends


@pytest.mark.ddp
@pytest.mark.parametrize("failing", [0, 2])
def test_ranks_commit_together_and_one_that_cannot_write_fails_only_its_step(tmp_path, failing):
    run = make_run(tmp_path / "trial")
    start(run)
    results = run_ranks(3, write_on_ranks, str(run.path), 1, failing)
    assert lineage.list_names(run) == ["step_00000001.00001", "step_00000003.00001"]
    assert all(lineage.verify(run, name) is None for name in lineage.list_names(run))
    assert {file.name for file in (run.checkpoints / "step_00000003.00001").iterdir()} == {
        *(f"rank_{rank:05d}.pt" for rank in range(3)),
        "manifest.json",
    }
    assert "No space left" in results[failing][1] and [ends[2] for ends in results] == ["written"] * 3
    if failing:
        assert results[0][1] == f"step 2: rank {failing} could not write its part: see its log"


def test_training_on_meanwhile_does_not_change_what_is_saved(tmp_path, monkeypatch):
    """pytorch #144657: what is written is the state of its step, not that of later ones."""
    straight = prepare_run(tmp_path / "straight", checkpoint={"background": False})
    train_here(straight)
    hashed: dict[int, str] = {}
    real = saving.depart

    def depart(run, *rest) -> None:
        hashed[run.state.step] = hash_of(run.state.shared())
        real(run, *rest)

    monkeypatch.setattr(saving, "depart", depart)
    run = prepare_run(tmp_path / "run", checkpoint={"background": "always", "every_steps": 3, "keep": 9})
    # The writer is late: the state has moved on by several steps when it gets to the file.
    faults = [Fault("checkpoint.file", "slow", nth=nth) for nth in (1, 2)]
    monkeypatch.setattr("runner.faults.SLOW_SECONDS", 0.2)
    outcome, _ = run_rank(run, Place(), redirect=False, proof=Proof(tuple(faults)))
    assert not outcome.verdict and fingerprint(run) == fingerprint(straight)
    saved = [int(name[5:13]) for name in lineage.list_names(run)]
    # The last in flight may be given up for the final one.
    assert sorted({*saved, 18}) == [3, 6, 9, 12, 15, 18, 20]
    for name in lineage.list_names(run):
        loaded = checkpoint.load(run, Group(), name, [])
        # The last one was written while training waited.
        assert loaded.step == 20 or hash_of(loaded.shared) == hashed[loaded.step], name


def hash_of(shared: dict) -> str:
    parts = {key: shared[key] for key in ("step", "method", "optimizer", "scaler")}
    return hashlib.sha256(b"".join(_bytes_of(parts))).hexdigest()


@pytest.mark.parametrize("signal", ["USR2", "KILL"])
def test_an_interruption_while_one_is_in_flight(tmp_path, signal, monkeypatch):
    """A signal supersedes it and loses no step; a kill leaves the older ones and a folder that nobody reads."""
    straight = prepare_run(tmp_path / "straight")
    train_here(straight)
    run = prepare_run(
        tmp_path / "run",
        checkpoint={"background": "always", "every_steps": 4},
        train={"steps": 20},
    )
    proof = Proof((Fault("checkpoint.barrier", "slow", nth=2), Fault("step.end", signal, nth=9)), prompt=True)
    monkeypatch.setattr("runner.faults.SLOW_SECONDS", 2.0)
    if signal == "USR2":
        outcome, _ = run_rank(run, Place(), redirect=False, proof=proof)
        assert outcome.verdict and outcome.step == 9
        assert lineage.newest_valid(run)[0] == lineage.name_of(outcome.step, 1)
        assert "step_00000008.00001" not in lineage.list_names(run), "superseded"
    else:
        code = exit_code_of(run, proof)
        assert code == -9
        assert lineage.newest_valid(run)[0] == "step_00000004.00001"
        # Or none: the kill may come before the thread has begun.
        assert {path.name for path in run.checkpoints.glob(".tmp-*")} <= {".tmp-step_00000008.00001.background"}
    train_here(run)
    assert fingerprint(run) == fingerprint(straight)
    assert not list(run.checkpoints.glob(".tmp-*"))
    assert [row["step"] for row in read_rows(run.metrics)] == [5, 10, 15, 20]


def exit_code_of(run: RunDir, proof: Proof) -> int:
    """Of one attempt in a process of its own."""
    child = os.fork()
    if child == 0:
        run_rank(run, Place(), redirect=False, proof=proof)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_failure_is_reported_at_the_next_step_and_training_goes_on(tmp_path, capsys):
    run = prepare_run(tmp_path, checkpoint={"background": "always", "every_steps": 4})
    outcome, _ = run_rank(run, Place(), redirect=False, proof=Proof((Fault("checkpoint.file", "full", nth=2),)))
    assert not outcome.verdict
    said = capsys.readouterr().out
    assert "checkpoint failed, training goes on: step 8: rank 0 could not write its part: [Errno 28] No space" in said
    assert [int(name[5:13]) for name in lineage.list_names(run)] == [12, 16, 20]


def test_an_error_of_other_kinds_ends_the_run(tmp_path):
    run = prepare_run(tmp_path, checkpoint={"background": "always", "every_steps": 4})
    with pytest.raises(InjectedError):
        run_rank(run, Place(), redirect=False, proof=Proof((Fault("checkpoint.file", "raise", nth=2),)))


def test_without_memory_for_a_copy_training_waits_for_each_checkpoint(tmp_path, capsys, monkeypatch):
    def reserve(*_) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(Snapshot, "reserve", reserve)
    run = prepare_run(tmp_path, checkpoint={"background": "always", "every_steps": 4, "keep": 9})
    train_here(run)
    assert "no memory for a copy of the state, so training waits" in capsys.readouterr().out
    assert [int(name[5:13]) for name in lineage.list_names(run)] == [4, 8, 12, 16, 20]


@pytest.mark.ddp
@pytest.mark.slow
def test_interrupted_equals_uninterrupted_on_ranks(tmp_path):
    groups = {"train": {"steps": 90, "batch_size": 12}}
    straight = prepare_run(tmp_path / "straight", **groups)
    run = prepare_run(tmp_path / "run", **groups, checkpoint={"background": "always", "every_steps": 7})
    for each, signals in [(straight, [(-1, -1)]), (run, [(15, 1), (40, 0), (-1, -1)])]:
        for launch, (step, rank) in enumerate(signals):
            verdicts = run_ranks(2, train_rank, str(each.path), step, rank, launch)
            assert len(set(verdicts)) == 1
    assert fingerprint(run) == fingerprint(straight) is not None
    assert len([row for row in run.attempt_rows() if row["event"] == "start"]) == 3
