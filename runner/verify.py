"""The proof that a trial ends bit for bit the same, however it is interrupted: `runner verify-resume`.

The trial is trained twice on this machine by the code path of a job: once straight, once with interruptions drawn
from a seed, at named places. Every rank's whole state is compared after every step, then metrics and fingerprints.
"""

import random
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from runner.config import Trial
from runner.debug import first_trial
from runner.errors import ConfigError, RunnerError
from runner.evidence import last_attempt, read_crashes
from runner.explain import counted
from runner.faults import Fault, Proof
from runner.files import PRIVATE, masked, read_json, read_rows, write_yaml
from runner.journal import Difference, compare, read_journal
from runner.local_ranks import DONE, LEFT, REFUSED, LocalRanks
from runner.lock import in_use
from runner.prepare import prepare
from runner.provenance import collect
from runner.rundir import RunDir, experiment_dir

DEFAULT_STEPS = 60
PATIENCE_SECONDS = 1800

LIMITS = (
    "This holds on this machine, for these versions and this number of ranks. Another number of ranks (--elastic), "
    "another processor, GPU or library version, or GPU kernels without train.deterministic give the same up to "
    "rounding; a resume then says `exact: no, because ...`."
)

KILLED_AT = (
    "step.end",
    "checkpoint.rename",
    "forward",
    "checkpoint.barrier",
    "backward",
    "checkpoint.renamed",
    "update",
    "checkpoint.manifest",
    "step",
    "checkpoint.file",
    "checkpoint.prune",
)
"""Where a rank is killed, in turn: half of the places are in the middle of a save."""

ON_RANK_0 = ("checkpoint.rename", "checkpoint.renamed", "checkpoint.manifest", "checkpoint.prune")


@dataclass(frozen=True)
class Interruption:
    """One attempt that was cut short."""

    faults: tuple[Fault, ...]
    start_step: int
    end_step: int | None
    """The step at which it left; None where it was killed and could not say."""

    resumed_step: int
    """Where the next attempt went on."""


@dataclass(frozen=True)
class Verdict:
    """What came of a proof."""

    steps: int
    ranks: int
    interruptions: tuple[Interruption, ...]
    difference: str | None
    """None when the two runs are equal in every bit."""

    fingerprint: str

    @property
    def equal(self) -> bool:
        return self.difference is None

    def as_json(self) -> dict[str, Any]:
        return {
            "equal": self.equal,
            "difference": self.difference,
            "steps": self.steps,
            "ranks": self.ranks,
            "fingerprint": self.fingerprint,
            "interruptions": [
                {
                    "faults": [str(fault) for fault in interruption.faults],
                    "start_step": interruption.start_step,
                    "end_step": interruption.end_step,
                    "resumed_step": interruption.resumed_step,
                }
                for interruption in self.interruptions
            ],
        }


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def draw_faults(
    number: int, *, kills: int, steps_left: int, world: int, save_every: int, evaluates: bool, rng: random.Random
) -> tuple[Fault, ...]:
    """How launch `number` (from 0) of `kills` is interrupted, within its share of the steps that are left.

    Every second one is a signal to one rank, which saves and leaves; the others are kill -9 of one rank or of all. A
    kill comes after at least one save where there is room for one, else it would only prove that starting is exact.
    """
    latest = max(steps_left // (kills - number + 1), 1)
    step = rng.randint(min(save_every + 1, latest), latest)
    rank = rng.randrange(world)
    if number % 2 == 0:
        if evaluates and number % 4 == 2:
            # Whichever comes first: the evaluation, or the step.
            return Fault("evaluate.batch", "USR2", rank), Fault("step.end", "USR2", rank, step)
        return (Fault("step.end", rng.choice(["USR2", "USR2", "TERM"]), rank, step),)
    place = KILLED_AT[number // 2 % len(KILLED_AT)]
    if place in ON_RANK_0:
        victim: int | None = 0
    else:
        victim = None if rng.random() < 0.3 else rank
    if place.startswith("checkpoint"):
        nth = max(step // save_every, 1)
        return Fault(place, "KILL", victim, nth), Fault("step.end", "KILL", victim, latest)
    return (Fault(place, "KILL", victim, step),)


def verify_resume(
    path: Path,
    overrides: list[str],
    root: Path,
    *,
    ranks: int | None = None,
    kills: int = 4,
    steps: int | None = None,
    seed: int = 0,
    say: Callable[[str], None] = _say,
) -> Verdict:
    """Train the first trial of an experiment twice under ROOT/.verify, and compare.

    Raises: ConfigError for the file and the options; RunnerError when a rank fails by itself, with its log's name.
    """
    variant, trial = first_trial(path, overrides, ranks)
    # Mirrors would only be told twice; an interruption on purpose is ours to make.
    quiet = {"tracking": trial.tracking.model_copy(update={"mirrors": {}}), "rehearse": None}
    trial = trial.model_copy(update=quiet)
    stop_after = steps or DEFAULT_STEPS
    if trial.train.steps is not None:
        stop_after = min(stop_after, trial.train.steps)
    check_room(kills, stop_after)
    folder = experiment_dir(root.absolute() / ".verify", trial.name) / variant.trial_id
    with masked(PRIVATE), in_use(folder):
        shutil.rmtree(folder, ignore_errors=True)
        straight, cut = (RunDir(folder / name) for name in ("straight", "cut"))
        for run in (straight, cut):
            prepare(run, trial, variant.overrides, collect(sys.argv))
        return _compare(straight, cut, trial, kills, stop_after, random.Random(seed), say)


def check_room(kills: int, steps: int) -> None:
    """Raise ConfigError unless there is a step to go on to between two interruptions."""
    if steps < 2 * (kills + 1):
        raise ConfigError(f"--kills: {kills} is not allowed; {steps} steps have room for {max(steps // 2 - 1, 0)}")


def _compare(
    straight: RunDir,
    cut: RunDir,
    trial: Trial,
    kills: int,
    stop_after: int,
    rng: random.Random,
    say: Callable[[str], None],
) -> Verdict:
    world = trial.resources.ranks
    say(f"runner: {trial.name} straight on {counted(world, 'rank')}, in {straight.path}")
    launch(straight, world, "straight", stop_after, Proof(journal=_journal(straight)))
    planned = int((read_json(straight.result) or {})["step"])
    check_room(kills, planned)
    interruptions = interrupt(cut, trial, kills, planned, stop_after, rng, say)
    fingerprint = str((read_json(cut.result) or {})["fingerprint"])
    difference = find_difference(straight, cut, world)
    return Verdict(planned, world, tuple(interruptions), difference, fingerprint)


def interrupt(
    run: RunDir,
    trial: Trial,
    kills: int,
    planned: int,
    stop_after: int,
    rng: random.Random,
    say: Callable[[str], None],
) -> list[Interruption]:
    """Train a prepared trial to its end through `kills` interruptions."""
    save_every = trial.checkpoint.every_steps or max(planned // (4 * (kills + 1)), 1)
    _set_save_interval(run, trial, save_every)
    interruptions: list[Interruption] = []
    pending: tuple[tuple[Fault, ...], int, int | None] | None = None
    number = 0
    while True:
        at = _next_step(run)
        armed: tuple[Fault, ...] = ()
        if number < kills:
            armed = draw_faults(
                number,
                kills=kills,
                steps_left=planned - at,
                world=trial.resources.ranks,
                save_every=save_every,
                evaluates=bool(trial.evaluate.probes),
                rng=rng,
            )
        proof = Proof(armed, _journal(run), prompt=True)
        code = launch(run, trial.resources.ranks, f"cut-{number}", stop_after, proof)
        start, end = _last_attempt_steps(run)
        if pending is not None:
            interruptions.append(Interruption(*pending, resumed_step=start))
        if code == DONE:
            return interruptions
        pending = (armed, start, end if code == LEFT else None)
        say(f"runner: interrupted: {' or '.join(map(str, armed))}")
        number += 1


def launch(run: RunDir, world: int, name: str, stop_after: int | None, proof: Proof) -> int:
    """Train until the ranks end; DONE, LEFT, or minus the signal that ended one.

    Raises: RunnerError when a rank failed by itself; ConfigError for what only the data could tell.
    """
    with LocalRanks(run, world, name, stop_after=stop_after, proof=proof) as ranks:
        codes = ranks.wait(PATIENCE_SECONDS)
    if run.result.exists() and not any(codes):
        return DONE
    if REFUSED in codes:
        raise ConfigError(_first_error(run))
    killed = [code for code in codes if code < 0]
    if killed and proof.faults:
        return killed[0]
    if set(codes) <= {LEFT, DONE} and proof.faults:
        return LEFT
    raise RunnerError(f"{run.path}: a rank failed by itself: {_first_error(run)}")


def find_difference(straight: RunDir, cut: RunDir, world: int) -> str | None:
    """In words, where two finished runs of a trial part first; None when they do not."""
    journals = [[read_journal(_journal(run), rank) for rank in range(world)] for run in (straight, cut)]
    difference: Difference | None = compare(*journals)
    if difference is not None:
        return str(difference)
    rows = [
        [{k: v for k, v in row.items() if k not in ("time", "attempt")} for row in read_rows(run.metrics)]
        for run in (straight, cut)
    ]
    if rows[0] != rows[1]:
        places = [row["step"] for pair in zip(*rows, strict=False) if pair[0] != pair[1] for row in pair[:1]]
        return f"metrics.jsonl, since step {places[0] if places else 'of its end'}"
    prints = [(read_json(run.result) or {}).get("fingerprint") for run in (straight, cut)]
    return None if prints[0] == prints[1] else "the fingerprint, though no piece of the state does"


def print_verdict(verdict: Verdict, console: Console) -> None:
    """A row for each interruption, and what came of it all."""
    table = Table(box=None, header_style="bold", pad_edge=True)
    for head in ("interrupted by", "from step", "left at", "resumed at"):
        table.add_column(head, overflow="fold")
    for cut in verdict.interruptions:
        left = "killed" if cut.end_step is None else str(cut.end_step)
        table.add_row(" or ".join(map(str, cut.faults)), str(cut.start_step), left, str(cut.resumed_step))
    console.print(table)
    runs = f"{counted(verdict.steps, 'step')}, {counted(verdict.ranks, 'rank')}"
    runs += f", {counted(len(verdict.interruptions), 'interruption')}"
    if verdict.equal:
        console.print(f"equal in every bit: {runs}, fingerprint {verdict.fingerprint[:12]}")
    else:
        console.print(f"NOT equal: {runs}: {verdict.difference}")
    console.print(LIMITS)


def _journal(run: RunDir) -> Path:
    return run.path / "journal"


def _set_save_interval(run: RunDir, trial: Trial, every_steps: int) -> None:
    checkpoint = trial.checkpoint.model_copy(update={"every_steps": every_steps})
    write_yaml(run.config, trial.model_copy(update={"checkpoint": checkpoint}).model_dump(mode="json"))


def _next_step(run: RunDir) -> int:
    """Where the next attempt will go on, by the checkpoints there are."""
    from runner.lineage import newest_valid

    name, _ = newest_valid(run)
    return 0 if name is None else int(name[5:13])


def _last_attempt_steps(run: RunDir) -> tuple[int, int | None]:
    rows = run.attempt_rows()
    start = [row for row in rows if row["event"] == "start"][-1]
    ends = [row for row in rows if row["event"] == "end" and row["attempt"] == start["attempt"]]
    return start["start_step"], ends[-1]["end_step"] if ends else None


def _first_error(run: RunDir) -> str:
    crashes = read_crashes(run, last_attempt(run))
    if crashes:
        return str(crashes[0]["error"]).partition(": ")[2]
    return f"see {run.logs}"
