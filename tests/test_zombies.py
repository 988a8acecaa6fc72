"""A superseded attempt that goes on writing, at whatever moment it was superseded, changes nothing for the newer one.

Each trial draws where the old attempt is when the new one starts, above all between the check whether it still may
write and the write itself. What is saved says which attempt computed each step, so a mix shows.
"""

import random
from pathlib import Path

import torch

from runner import background, checkpoint, lineage
from runner.attempt import Attempt, SupersededError, claim
from runner.config import TrackingConfig
from runner.errors import CheckpointError
from runner.faults import Faults
from runner.files import read_rows
from runner.group import Group
from runner.rundir import RunDir
from runner.tracking import Tracker

TRIALS = 1000
LATE_PLACES = ["checkpoint", "checkpoint.file", "checkpoint.barrier", "checkpoint.manifest", "checkpoint.rename"]
LATE_PLACES += ["checkpoint.renamed", "prune", "metrics", "before"]


class Interlude(Faults):
    """Calls something once, when the code comes to a place."""

    def __init__(self, place: str, call) -> None:
        self.place, self.call = place, call

    def at(self, place: str) -> None:
        if place == self.place:
            self.place = ""
            self.call()


class Trainer:
    """An attempt that does steps, writes rows and checkpoints, and knows which attempt did each step."""

    def __init__(self, run: RunDir, keep: int) -> None:
        self.run, self.keep = run, keep
        self.attempt: Attempt = claim(run)
        name, _ = lineage.newest_valid(run)
        self.done = [] if name is None else load(run, name)
        self.attempt.record_start(
            job_id="1", launch=self.attempt.name, world=1, step=len(self.done), steps=99, resumed_from=name
        )
        self.tracker = Tracker(self.attempt, TrackingConfig())
        self.tracker.begin(len(self.done) or -1)

    def train(self, steps: int, interlude: Interlude, in_background: bool) -> None:
        """Steps with a row each, then a checkpoint and pruning. Raises SupersededError or CheckpointError."""
        for _ in range(steps):
            self.done.append(self.attempt.number)
            real, attempt = self.attempt.check_fence, self.attempt

            def check(real=real) -> None:
                real()
                interlude.at("metrics")

            object.__setattr__(attempt, "check_fence", check)
            try:
                self.tracker.write(len(self.done), {"train/loss": float(self.attempt.number)})
            finally:
                object.__delattr__(attempt, "check_fence")
        step, shared = len(self.done), {"method": {"done": torch.tensor(self.done)}, "step": len(self.done)}
        if in_background:
            background.write(self.run, Group(), self.attempt, step, shared, {}, {}, lambda: None, interlude)
        else:
            checkpoint.save(self.run, Group(), self.attempt, step, shared, {}, {}, interlude)
        interlude.at("prune")
        checkpoint.prune(self.run, keep=self.keep, keep_every_steps=None, best_step=None)


def load(run: RunDir, name: str) -> list[int]:
    done = checkpoint.load(run, Group(), name, []).shared["method"]["done"].tolist()
    assert len(done) == int(name[5:13])
    return done


def haunt(folder: Path, chance: random.Random) -> str | None:
    """One trial; what is wrong in the end, None when nothing is."""
    folder.mkdir()
    run, keep = RunDir(folder), chance.randrange(1, 3)
    never = Interlude("", None)
    old = Trainer(run, keep)
    for _ in range(chance.randrange(3)):
        old.train(chance.randrange(1, 4), never, chance.random() < 0.5)
    new: list[Trainer] = []
    expected: list[list[int]] = []

    def supersede() -> None:
        new.append(Trainer(run, keep))
        for _ in range(chance.randrange(3)):
            new[0].train(chance.randrange(1, 4), never, chance.random() < 0.5)
        expected.append(list(new[0].done))

    interlude = Interlude(chance.choice(LATE_PLACES), supersede)
    interlude.at("before")
    # The old one may be far ahead of the new one.
    for steps in (chance.randrange(1, 9), 2):
        try:
            old.train(steps, interlude, chance.random() < 0.5)
        except (SupersededError, CheckpointError):
            break
    if not new:
        supersede()
    name, refused = lineage.newest_valid(run)
    found = [] if name is None else load(run, name)
    if refused or found != expected[0]:
        return f"{name} holds {found}, not {expected[0]}; refused {refused}"
    new[0].train(2, never, chance.random() < 0.5)
    rows = [(row["step"], row["attempt"]) for row in read_rows(run.metrics)]
    wanted = [(step, number) for step, number in enumerate(new[0].done, start=1)]
    return None if rows == wanted else f"rows {rows}, not {wanted}"


def test_no_trial_of_a_thousand_mixes_two_lineages(memory_path):
    chance, mixed = random.Random(0), []
    for trial in range(TRIALS):
        problem = haunt(memory_path / str(trial), chance)
        if problem is not None:
            mixed.append(f"trial {trial}: {problem}")
    print(f"\n{len(mixed)} lineage mixes in {TRIALS} trials of a superseded attempt that goes on saving")
    assert not mixed, "\n".join(mixed[:5])
