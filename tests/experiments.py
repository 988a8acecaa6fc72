"""A small real experiment for the tests that train: SCL with a small network on the shipped images."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from runner.attempt import Attempt, claim
from runner.experiment import load_experiment, load_trial
from runner.files import read_json, read_rows
from runner.group import Group
from runner.preemption import Answer, Preemption
from runner.prepare import prepare
from runner.rank import run_rank
from runner.rendezvous import Place
from runner.rundir import RunDir, find_trials
from runner.sweep import trials
from runner.trainer import launch as launch_trial
from tests.ranks import run_ranks

SETTINGS: dict[str, Any] = {
    "name": "tiny",
    "method": {"name": "scl", "projector_hidden": 32, "projector_width": 16},
    "encoder": {"name": "small_convnet", "widths": [8, 16]},
    "data": {"name": "fashion_mnist_sample", "limit": 256},
    "views": {"blur": {"probability": 0.0}},
    "optimizer": {"name": "adamw", "lr": 1e-3, "weight_decay": 1e-4},
    "schedule": {"name": "cosine", "warmup_steps": 5},
    "train": {"steps": 20, "batch_size": 24, "max_grad_norm": 1.0},
    "tracking": {"every_steps": 5},
}


def write_experiment(
    folder: Path, sweep: dict[str, Any] | None = None, without: tuple[str, ...] = (), **groups: Any
) -> Path:
    """An experiment file: SETTINGS but for the groups in `without`, with the given groups merged in."""
    settings = {name: group for name, group in SETTINGS.items() if name not in without}
    for name, group in groups.items():
        settings[name] = {**settings.get(name, {}), **group} if isinstance(group, dict) else group
    if sweep is not None:
        settings["sweep"] = sweep
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def run_cli(*words: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """`runner WORDS`, as a user would."""
    command = [sys.executable, "-m", "runner", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, **{"timeout": 240, **options})


def only_trial(root: Path, experiment: str = "tiny") -> RunDir:
    (run,) = find_trials(root / experiment)
    return run


def last_step(run: RunDir) -> int:
    """The last step in metrics.jsonl, 0 when there is none."""
    rows = read_rows(run.metrics)
    return int(rows[-1]["step"]) if rows else 0


def fingerprint(run: RunDir) -> str | None:
    result = read_json(run.result)
    return None if result is None else str(result["fingerprint"])


def prepare_run(folder: Path, nonce: str | None = None, **groups: Any) -> RunDir:
    """A run folder of the first trial, ready to be trained."""
    folder.mkdir(parents=True, exist_ok=True)
    (variant, trial), *_ = trials(load_experiment(write_experiment(folder, **groups)))
    run = RunDir(folder / "runs" / trial.name / variant.trial_id)
    prepare(run, trial, variant.overrides, ({} if nonce is None else {"nonce": nonce}, ""))
    return run


def train_here(run: RunDir, attempts: int = 9, stop_after: int | None = None) -> int:
    """Train one rank in this process until it is done, resuming after each interruption; the attempts it took."""
    for attempt in range(1, attempts + 1):
        outcome, _ = run_rank(run, Place(), stop_after=stop_after, redirect=False)
        if not outcome.verdict:
            return attempt
    raise AssertionError(f"not done after {attempts} attempts")


def train_on_ranks(run: RunDir, world: int, signals: dict[int, int] | None = None) -> list[str]:
    """Train on several ranks to the end; `signals` maps steps to the rank that is signalled there, one an attempt.

    Returns how each attempt left.
    """
    left = []
    for step, rank in [*(signals or {}).items(), (-1, -1)]:
        left.append(run_ranks(world, train_rank, str(run.path), step, rank, len(left))[0])
        if left[-1] == "GO_ON":
            break
    return left


def train_rank(group: Group, folder: str, signal_step: int, signal_rank: int, launch: int) -> str:
    """One attempt of one rank inside `run_ranks`."""
    run = RunDir(Path(folder))
    attempt = claim(run) if group.is_main else None
    number = group.broadcast_json(attempt.number if attempt else 0)
    preemption = Preemption()
    real_poll = preemption.poll

    def poll(group: Group, step: int, *wishes: Any) -> Answer:
        if step == signal_step and group.rank == signal_rank:
            preemption.raise_flag(signal.SIGUSR2)
        return real_poll(group, step, *wishes)

    preemption.poll = poll  # type: ignore[method-assign]
    place = Place(group.rank, group.world, group.rank, launch=str(launch))
    outcome = launch_trial(load_trial(run.config), Attempt(run, number, group.rank), group, preemption, place=place)
    return outcome.verdict.name
