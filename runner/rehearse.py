"""A rehearsal: the first trial of an experiment, shortened, on a real Slurm of this machine that interrupts it.

One run is left alone, another meets every event of a plan in turn, each at a random step. What came of it is
measured from outside, by what stands in the run folder.
"""

import math
import random
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from runner import onebox, slurm
from runner.config import TrackingConfig, Trial
from runner.debug import first_trial
from runner.errors import ConfigError, RunnerError, SubmissionError
from runner.explain import counted
from runner.files import read_json, read_rows
from runner.onebox.private import private_cluster
from runner.prepare import prepare
from runner.profile import Profile
from runner.provenance import collect
from runner.rehearsal import (
    KINDS,
    STEPS_PER_EVENT,
    Event,
    Report,
    compare,
    describe_passage,
    plan_events,
)
from runner.rundir import RunDir
from runner.shipment import Shipment, ship
from runner.sight import Sight
from runner.stage import Stage, say, why
from runner.status import read_statuses

TRAINING_SECONDS = 60.0
"""How long the shortened trial trains, unless --steps says."""

MEASURED_STEPS, MEASURED_SECONDS = 30, 10.0
"""How much of a trial, after its first step, tells how long a step takes: whichever comes first."""

SECONDS_PER_EVENT = 2.0
"""Of training: less is over before an interruption that was ordered comes."""

CHECKPOINTS = 10
"""In the shortened trial, for kill -9 to have something to go back to."""

CLUSTER_NODES = 3
"""Two for the trial, and one to go to when one of them dies."""

PATIENCE_SECONDS = 300.0
"""How long no step may be done before a trial counts as hanging, beside twice the time of the uninterrupted run."""

POLL_SECONDS = 0.2


class RehearsalError(RunnerError):
    """The trial failed where nobody interrupted it."""


def rehearse(
    path: Path,
    overrides: list[str],
    root: Path,
    *,
    ranks: int | None = None,
    steps: int | None = None,
    seed: int | None = None,
    kinds: Sequence[str] = (),
    grace_seconds: int = 30,
) -> Report:
    """Rehearse the first trial of an experiment under ROOT/.rehearsal; tells on stderr what it does.

    The trial keeps its own schedules and evaluation and ends after `steps`, about TRAINING_SECONDS if None; a row of
    metrics is written at every step. Raises: SubmissionError without Slurm's programs, ConfigError for the file and
    for too few steps, RehearsalError when the trial fails by itself.
    """
    if missing := onebox.missing_tools(accounting=False):
        raise SubmissionError(f"{missing[0]} not found; get it with: runner onebox install")
    if unknown := sorted(set(kinds) - set(KINDS)):
        raise ConfigError(f"--event {unknown[0]}: is not allowed; there is {', '.join(KINDS)}")
    least = STEPS_PER_EVENT * (len(kinds) or len(KINDS))
    if steps is not None and steps < least:
        raise ConfigError(f"--steps {steps}: is not allowed; so many events need at least {least}")
    variant, trial = first_trial(path, overrides, ranks)
    if trial.train.steps == 0:
        raise ConfigError(f"{path}: train.steps: 0 trains nothing, so there is nothing to interrupt")
    seed = random.randrange(10**6) if seed is None else seed
    trial = trial.model_copy(update={"tracking": TrackingConfig(every_steps=1), "rehearse": None})
    folder = root.absolute() / ".rehearsal" / trial.name / variant.trial_id
    site, nodes = make_site(trial.resources.ranks, torch.cuda.is_available())
    origin = collect(sys.argv)

    def start(name: str, stop_after: int | None) -> RunDir:
        run = RunDir(folder / name)
        prepare(run, with_checkpoints(trial, stop_after), variant.overrides, origin)
        ship(Shipment(site, [(run, trial.resources)]), folder, stop_after)
        return run

    settings = {
        "nodes": CLUSTER_NODES,
        "cpus": 2 * trial.resources.ranks * trial.resources.cpus_per_rank,
        "memory_mb": 10**6,
        "gpus": site.gpus_per_node or 0,
        "grace_seconds": grace_seconds,
        "kill_wait_seconds": max(1, grace_seconds),
        "accounting": False,
    }
    shutil.rmtree(folder, ignore_errors=True)
    with private_cluster(**settings) as cluster, _keeping_logs(cluster, folder):
        place = f"{counted(trial.resources.ranks, 'rank')} and {counted(nodes, 'node')}"
        say(f"{trial.name}/{variant.trial_id} on {place}, in {folder}")
        steps = steps or _choose_steps(start("measured", None), least)
        began = time.monotonic()
        reference = start("uninterrupted", steps)
        steps = _wait_until_done(reference)
        if steps < least:
            raise ConfigError(f"{path}: the trial ends after {steps} steps; so many events need at least {least}")
        check_length(path, read_rows(reference.metrics), len(kinds) or len(KINDS))
        events = plan_events(steps, seed, kinds)
        say(f"uninterrupted: done after {steps} steps; seed {seed}: {_in_words(events)}")
        patience_seconds = PATIENCE_SECONDS + 2 * (time.monotonic() - began)
        stage = Stage(cluster, start("interrupted", steps), random.Random(seed), patience_seconds)
        strikes, note = stage.play(events)
        result, other = read_json(stage.run.result), read_json(reference.result)
    differences = (
        compare(read_rows(stage.run.metrics), read_rows(reference.metrics), result, other)
        if result and not note
        else []
    )
    rows = stage.run.attempt_rows()
    return Report(
        experiment=trial.name,
        trial=variant.trial_id,
        folder=str(folder),
        seed=seed,
        steps=steps,
        ranks=trial.resources.ranks,
        nodes=nodes,
        passages=tuple(describe_passage(strike, rows, stage.sight.steps, result is not None) for strike in strikes),
        planned=len(events),
        differences=tuple(differences),
        note=note,
    )


def check_length(path: Path, rows: Sequence[dict[str, Any]], events: int) -> None:
    """Raise ConfigError where a trial would be done before anybody could interrupt it so many times."""
    seconds, least = rows[-1]["time"] - rows[0]["time"], SECONDS_PER_EVENT * events
    if seconds < least:
        enough = math.ceil(len(rows) * 2 * least / max(seconds, 0.01))
        raise ConfigError(
            f"{path}: its {len(rows)} steps take {seconds:.1f} s, too little for {counted(events, 'interruption')}; "
            f"train for longer, such as train.steps={enough}"
        )


@contextmanager
def _keeping_logs(cluster: onebox.Cluster, folder: Path) -> Iterator[None]:
    """What the daemons of a cluster wrote outlives it: FOLDER/slurm."""
    try:
        yield
    finally:
        shutil.copytree(cluster.folder / "log", folder / "slurm", dirs_exist_ok=True)


def make_site(ranks: int, cuda: bool) -> tuple[Profile, int]:
    """The profile of the trial's jobs and how many nodes they take: two where that is possible.

    Nodes are told apart by (fake) GPUs. A machine's real GPU would get a rank of each node, which NCCL refuses.
    """
    apart = ranks % 2 == 0 and not cuda
    gpus_per_node = ranks // 2 if apart else None
    site = Profile(cluster="slurm", partition="low", time_minutes=24 * 60, gpus_per_node=gpus_per_node)
    return site, 2 if apart else 1


def with_checkpoints(trial: Trial, steps: int | None) -> Trial:
    """The trial with periodic checkpoints as often as its shortened form needs."""
    if steps is None:
        return trial
    every_steps = max(1, steps // CHECKPOINTS)
    return trial.model_copy(update={"checkpoint": trial.checkpoint.model_copy(update={"every_steps": every_steps})})


def _wait_until_done(run: RunDir) -> int:
    """The steps of a run that nobody interrupts."""
    while True:
        (row,) = read_statuses([run])
        if row.settled:
            break
        time.sleep(POLL_SECONDS)
    if row.record.result is None:
        raise RehearsalError(f"without any interruption, {why(row)}; see {run.logs}")
    return int(row.record.result["step"])


def _choose_steps(run: RunDir, least: int) -> int:
    """How many steps take about TRAINING_SECONDS, by the first steps of a run that is then given up."""
    sight = Sight(run)
    while True:
        sight.look()
        times = sorted(sight.steps.get(1, {}).values())
        if len(times) > 1 and (len(times) > MEASURED_STEPS or times[-1] - times[0] > MEASURED_SECONDS):
            break
        (row,) = read_statuses([run])
        if row.record.result is not None and len(times) > 1:
            break
        if row.settled:
            raise RehearsalError(f"without any interruption, {why(row)}; see {run.logs}")
        time.sleep(POLL_SECONDS)
    slurm.cancel([str(run.job_rows()[-1]["job_id"])])
    seconds = (times[-1] - times[0]) / (len(times) - 1)
    steps = max(least, round(TRAINING_SECONDS / max(seconds, 1e-4)))
    say(f"a step takes {seconds:.3f} s: at most {steps} steps")
    while not read_statuses([run])[0].settled:
        time.sleep(POLL_SECONDS)
    shutil.rmtree(run.path)
    return steps


def _in_words(events: Sequence[Event]) -> str:
    return ", ".join(f"{event.kind} at step {event.step}" for event in events)
