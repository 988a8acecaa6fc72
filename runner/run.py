"""The parts of a running trial, made from its config."""

import inspect
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from runner import loader, named
from runner.attempt import Attempt
from runner.background import Background, Flight
from runner.batch import Batch
from runner.config import Selection, Trial
from runner.dataset import Records, Split
from runner.evaluate import check_probes
from runner.exactness import gather_facts, library_versions
from runner.experiment import check_warmup
from runner.faults import NO_FAULTS, Faults
from runner.files import replacing
from runner.group import Group
from runner.heartbeat import Pulse
from runner.interval import Interruptions
from runner.journal import Journal
from runner.method import Method, Output, Task
from runner.optimizer import build_optimizer
from runner.precision import Precision
from runner.preemption import Preemption
from runner.progress import Progress
from runner.schema import Options
from runner.search_trial import Pruning
from runner.snapshot import Snapshot
from runner.state import TrainState, seed_everything
from runner.time_limit import TimeLimit
from runner.tracking import Tracker
from runner.trial_data import Data, build_data, describe_data, errors_about, known_tokenizer

_DDP_OPTIONS = inspect.signature(DistributedDataParallel).parameters
_RANK_LOCAL_BUFFERS: dict[str, Any] = {
    # torch 2.13 renamed it; either way no rank overwrites another's batch statistics at every step
    "forward_sync_buffers" if "forward_sync_buffers" in _DDP_OPTIONS else "broadcast_buffers": False
}


@dataclass
class Run:
    """The parts of a running trial; made once by `build`."""

    trial: Trial
    attempt: Attempt
    group: Group
    preemption: Preemption
    method: Method
    model: Callable[[Batch, int], Output]
    """The method, wrapped for several ranks."""

    state: TrainState
    schedule: Callable[[int], float]
    plan: loader.Plan
    data: Data
    probes: dict[str, Options]
    steps: int
    """Planned optimizer steps."""

    stop: int
    """Steps after which this run ends: `steps`, or fewer when debugging."""

    tracker: Tracker | None
    progress: Progress
    faults: Faults
    pulse: Pulse
    facts: dict[str, Any]
    """What every checkpoint's manifest says of where it comes from."""

    journal: Journal | None = None
    """Kept only where a run is to be compared with another, step by step."""

    pruning: Pruning | None = None
    """Of a trial of a search."""

    resumed_from: str | None = None
    exact: str | None = None
    """Whether it goes on from there bit for bit: `yes`, or `no, because` of what; None for a fresh start."""

    saved_step: int = -1
    """The step of the newest checkpoint of this attempt's lineage."""

    next_save: float = math.inf
    """time.monotonic() from which a periodic checkpoint is due; counts on rank 0 only."""

    limit: TimeLimit = field(default_factory=TimeLimit)
    """When the time of this job is up; rank 0 looks at it."""

    told_interval_seconds: float = 0.0
    """Between periodic checkpoints, as the log has it."""

    seconds_before: dict[str, float] = field(default_factory=dict)
    """Where the time of the attempts went that this one descends from."""

    save_background_seconds: float = 0.0
    """What checkpoints in the background took from the training of this attempt."""

    began: float = field(default_factory=time.monotonic)
    interruptions: Interruptions = field(default_factory=Interruptions)
    """Of the attempts before this one; known to rank 0 only."""

    background: Background = field(default_factory=Background)
    snapshot: Snapshot | None = None
    """Where the state is copied for a checkpoint in the background; None while there is no such place."""

    snapshot_is_due: bool = True
    """Nobody has made that place yet, or found that there should be none."""

    flight: Flight | None = None
    """The checkpoint in flight."""

    saved_step_is_agreed: bool = True
    """Of a checkpoint in the background rank 0 alone knows whether it was committed."""

    @property
    def position(self) -> int:
        """The place in the plan of the next optimizer step."""
        return self.state.step + self.state.skipped

    @property
    def at_end(self) -> bool:
        """Whether no further step follows."""
        return self.state.step >= self.stop or self.position >= self.steps or self.state.finished

    def at(self, place: str) -> None:
        """Pass a named place: it counts as progress, and failures may be injected there."""
        self.pulse.at(place, self.state.step)
        self.faults.at(place)

    def sum_seconds(self) -> None:
        """Bring up to date what the state says of where the time went."""
        own = {**self.pulse.read().seconds, "save_background": self.save_background_seconds}
        self.state.seconds = {
            name: round(self.seconds_before.get(name, 0.0) + own.get(name, 0.0), 3)
            for name in {**self.seconds_before, **own}
        }

    def note_seconds(self) -> None:
        """On rank 0: leave a reading of where the time went, for runner.goodput."""
        if self.group.is_main:
            self.attempt.record_reading(self.pulse.read())


def build(
    trial: Trial,
    attempt: Attempt,
    group: Group,
    preemption: Preemption,
    stop_after: int | None,
    faults: Faults = NO_FAULTS,
    pulse: Pulse | None = None,
) -> Run:
    """Make every part of a trial from its config."""
    options = named.resolve_trial(trial)
    if trial.train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=False)
        torch.backends.cudnn.benchmark = False
    # The same weights on every rank; the per-rank streams start after the model is made.
    seed_everything(trial.train.seed, rank=0)
    data = build_data(trial, options, group.device, known_tokenizer(trial, options, attempt.run))
    some = data.train if data.train is not None else next(iter(data.tests.values()))
    if group.is_main and isinstance(some, Records) and some.tokenizer is not None:
        with replacing(attempt.run.tokenizer) as file:
            file.write(some.tokenizer.encode())
    plan = make_plan(trial, some)
    steps = (trial.train.epochs or 0) * plan.steps_per_epoch if trial.train.steps is None else trial.train.steps
    if steps:
        check_warmup(getattr(options.schedule, "warmup_steps", 0), steps)
    method = build_method(trial, options, some, data.train, group, steps)
    check_probes(method, options.probes, data.probe_train, data.tests, group)
    state = TrainState(method, build_optimizer(method, trial.optimizer), Precision(trial.train.precision, group.device))
    seed_everything(trial.train.seed, rank=1 + group.rank)
    stop = min(steps, stop_after) if stop_after else steps
    facts = gather_facts(group, trial.train.deterministic)
    facts |= library_versions(method)
    facts |= {"config": trial.model_dump(mode="json"), "data": describe_data(some)}
    if foreign := named.foreign_packages(trial):
        facts["plug_ins"] = foreign
    return Run(
        trial=trial,
        attempt=attempt,
        group=group,
        preemption=preemption,
        method=method,
        model=wrap(method, group, trial.train.sync_batch_norm),
        state=state,
        schedule=named.load("schedules", trial.schedule.name).build(options.schedule, max(steps, 1)),
        plan=plan,
        data=data,
        probes=options.probes,
        steps=steps,
        stop=stop,
        tracker=Tracker(attempt, trial.tracking) if group.is_main else None,
        progress=Progress(stop, 0, shown=group.is_main),
        faults=faults,
        pulse=pulse or Pulse(),
        facts=facts,
    )


def make_plan(trial: Trial, data: Split) -> loader.Plan:
    """The order of the samples of a trial."""
    return loader.Plan(len(data), trial.train.batch_size, trial.train.accumulate, trial.train.seed)


def build_method(
    trial: Trial, options: named.ResolvedTrial, some: Split, train: Split | None, group: Group, steps: int
) -> Method:
    """The model of a trial, for samples like `some` and so many planned steps, on the device of the group."""
    encoder = build_encoder(trial.encoder, inputs=some.inputs)
    more = partial(_build_more_encoder, options.method, some.inputs)
    steps_per_epoch = make_plan(trial, some).steps_per_epoch
    task = Task(steps, group, steps_per_epoch, some.classes, trial.train.seed, train, more)
    method: Method = named.load("methods", trial.method.name).build(options.method, encoder, task)
    return method.to(group.device)


def build_encoder(selection: Selection, inputs: int) -> nn.Module:
    """An encoder by its name and options, for data of so many channels or token ids."""
    encoder: nn.Module = named.load("encoders", selection.name).build(named.resolve("encoders", selection), inputs)
    return encoder


def _build_more_encoder(method: Options, inputs: int, selection: Selection) -> nn.Module:
    """An encoder that an option of the method selects; raises ConfigError by the key of that option."""
    key = next((f"method.{option}" for option, value in method if value is selection), "encoder")
    with errors_about("encoder", key):
        return build_encoder(selection, inputs)


def wrap(method: Method, group: Group, sync_batch_norm: bool) -> Callable[[Batch, int], Output]:
    """The method as the loop calls it: on several ranks, with its gradients averaged over them."""
    if group.world == 1:
        return method
    if sync_batch_norm:
        # In place: the optimizer's and the checkpoints' view of the parameters stays the method itself.
        nn.SyncBatchNorm.convert_sync_batchnorm(method, group.data)  # type: ignore[no-untyped-call]
    return DistributedDataParallel(
        method,
        device_ids=[group.device] if group.device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        process_group=group.data,
        find_unused_parameters=not method.uses_all_parameters,
        **_RANK_LOCAL_BUFFERS,
    )
