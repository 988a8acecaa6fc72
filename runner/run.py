"""The parts of a running trial: made from its config, and put back to where the last attempt left them."""

import hashlib
import inspect
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from runner import checkpoint, elastic, loader, named
from runner.attempt import Attempt
from runner.background import Background, Flight
from runner.batch import Batch
from runner.config import Selection, Trial, check_warmup, differing_keys
from runner.dataset import ImageSet, Records, Split
from runner.errors import CheckpointError, ConfigError, DataError
from runner.evaluate import check_probes, fits
from runner.exactness import gather_facts, why_inexact
from runner.explain import OptionError
from runner.faults import NO_FAULTS, Faults
from runner.group import Group
from runner.heartbeat import Pulse
from runner.interval import Interruptions, count_interruptions, longest_stop_seconds
from runner.journal import Journal
from runner.method import Method, Output, Task
from runner.optimizer import build_optimizer
from runner.precision import Precision
from runner.preemption import Preemption
from runner.progress import Progress
from runner.rundir import RunDir, replacing
from runner.schema import Options
from runner.snapshot import Snapshot
from runner.state import TrainState, seed_everything
from runner.time_limit import TimeLimit
from runner.tokenizers.choice import name_of
from runner.tracking import Tracker

_DDP_OPTIONS = inspect.signature(DistributedDataParallel).parameters
_RANK_LOCAL_BUFFERS: dict[str, Any] = {
    # torch 2.13 renamed it; either way no rank overwrites another's batch statistics at every step
    "forward_sync_buffers" if "forward_sync_buffers" in _DDP_OPTIONS else "broadcast_buffers": False
}


SAMPLES_HASHED = 64
"""A few pages of the largest data set."""


@dataclass(frozen=True)
class Data:
    """The samples of a trial."""

    train: Split | None
    """None when nothing is trained or fitted."""

    probe_train: Split | None
    """What probes are fitted on; another set than `train` where that has no labels."""

    tests: Mapping[str, Split]
    """What is evaluated, by the name its metrics get; empty without probes."""


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

    def add_seconds(self, name: str, began: float) -> None:
        """Account for the time since `began`, by time.monotonic()."""
        self.state.seconds[name] = self.state.seconds.get(name, 0.0) + time.monotonic() - began


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
    plan = loader.Plan(len(some), trial.train.batch_size, trial.train.accumulate, trial.train.seed)
    steps = (trial.train.epochs or 0) * plan.steps_per_epoch if trial.train.steps is None else trial.train.steps
    if steps:
        check_warmup(getattr(options.schedule, "warmup_steps", 0), steps)
    encoder = build_encoder(trial.encoder, inputs=some.inputs)
    more = partial(_build_more_encoder, options.method, some.inputs)
    task = Task(steps, group, plan.steps_per_epoch, some.classes, trial.train.seed, data.train, more)
    method = named.load("methods", trial.method.name).build(options.method, encoder, task).to(group.device)
    if trial.init_path is not None:
        checkpoint.load_weights(method, trial.init_path)
    check_probes(method, options.probes, data.probe_train, data.tests, group)
    state = TrainState(method, build_optimizer(method, trial.optimizer), Precision(trial.train.precision, group.device))
    seed_everything(trial.train.seed, rank=1 + group.rank)
    stop = min(steps, stop_after) if stop_after else steps
    facts = gather_facts(group, trial.train.deterministic)
    facts |= {"config": trial.model_dump(mode="json"), "data": describe_data(some)}
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


def build_encoder(selection: Selection, inputs: int) -> nn.Module:
    """An encoder by its name and options, for data of so many channels or token ids."""
    encoder: nn.Module = named.load("encoders", selection.name).build(named.resolve("encoders", selection), inputs)
    return encoder


def _build_more_encoder(method: Options, inputs: int, selection: Selection) -> nn.Module:
    """An encoder that an option of the method selects; raises ConfigError by the key of that option."""
    key = next((f"method.{option}" for option, value in method if value is selection), "encoder")
    with _errors_about("encoder", key):
        return build_encoder(selection, inputs)


@contextmanager
def _errors_about(group: str, key: str) -> Iterator[None]:
    """What a plug-in says of its own group is said of the dotted key that the plug-in was selected by."""
    try:
        yield
    except OptionError as error:
        raise OptionError(_moved(error.key, group, key), error.problem) from None
    except (ConfigError, DataError) as error:
        raise type(error)(_moved(str(error), group, key)) from None


def _moved(text: str, group: str, key: str) -> str:
    return key + text.removeprefix(group) if text.startswith((f"{group}.", f"{group}:")) else text


def known_tokenizer(trial: Trial, options: named.ResolvedTrial, run: RunDir) -> str | None:
    """The tokenizer that the model is trained with: of the checkpoints there are, else of `init_from`; or None.

    Raises ConfigError for weights that do not say it, where the trial's own training texts would make other ids.
    """
    if run.tokenizer.exists() and checkpoint.list_names(run):
        return run.tokenizer.read_text()
    if trial.init_path is None:
        return None
    checkpoint.read_export(trial.init_path)
    tokenizer = checkpoint.read_tokenizer(trial.init_path)
    if tokenizer is None and getattr(options.data, "trains_tokenizer", False):
        problem = f'"bpe" is not allowed without a source: {trial.init_path} does not say what its token ids mean'
        raise OptionError("data.tokenizer.name", f"{problem}; export its trial again, or set data.tokenizer.source")
    return tokenizer


def build_split(name: str, options: Options, split: str, tokenizer: str | None) -> Split:
    """A split of a data set by its name, with the model's token ids."""
    source = named.load("data", name)
    more = {"tokenizer": tokenizer} if getattr(source, "TOKENIZES", False) else {}
    built: Split = source.build(options, split, **more)
    return built


def build_data(trial: Trial, options: named.ResolvedTrial, device: torch.device, tokenizer: str | None = None) -> Data:
    """The samples of a trial: to train on, to fit probes on, and to evaluate.

    `tokenizer` is the one that the model was trained with, as far as it was. Raises ConfigError for other data
    than the model's.
    """
    source, evaluate = named.load("data", trial.data.name), trial.evaluate
    train = tests = probe_train = None
    if trial.train.steps != 0 or fits(options.probes) or evaluate.on == "validation":
        train = build_split(trial.data.name, options.data, "train", tokenizer)
        check_tokenizer("data", train, tokenizer)
        tokenizer = tokenizer_of(train)
    if evaluate.on == "test":
        tests = {"test": build_split(trial.data.name, options.data, "test", tokenizer)} if options.probes else {}
    elif "validation" in getattr(source, "SPLITS", ()):
        tests = {"validation": build_split(trial.data.name, options.data, "validation", tokenizer)}
    else:
        assert train is not None
        train, held_out = loader.hold_out(train, evaluate.validation_share, trial.train.seed)
        tests = {"validation": held_out}
    model = train if train is not None else tests["test"]
    check_tokenizer("data", model, tokenizer)
    for name, selection in evaluate.data.items():
        with _errors_about("data", f"evaluate.data.{name}"):
            tests[name] = build_split(selection.name, options.more_data[name], "test", tokenizer_of(model))
        check_alike(name, tests[name], model)
    if options.probes and hasattr(source, "build_probe"):
        probe_train = source.build_probe(options.data)
    if train is not None:
        train = loader.resident(train, device)
    return Data(train, train if probe_train is None else probe_train, tests)


def tokenizer_of(data: Split) -> str | None:
    """What the token ids of a split mean; None where there is no choice."""
    return data.tokenizer if isinstance(data, Records) else None


def check_tokenizer(key: str, data: Split, model: str | None) -> None:
    """Raise OptionError where token ids mean something else to the model, by what its tokenizer is described as."""
    found = tokenizer_of(data)
    if found is not None and model is not None and found != model:
        given, wanted = name_of(found), name_of(model)
        other = f'another "{wanted}"' if given == wanted else f'"{wanted}"'
        problem = f'"{given}" is not allowed; the model was trained on the token ids of {other}: choose that one'
        raise OptionError(f"{key}.tokenizer", problem)


def check_alike(name: str, data: Split, model: Split) -> None:
    """Raise ConfigError where a method that is made for `model` cannot be evaluated on the data set of this name."""
    if lacking := [column for column in model.columns if column not in data.columns]:
        problem = f"has no column {lacking[0]}, which the trial's data have"
    elif data.inputs != model.inputs:
        what = "channels" if isinstance(data, ImageSet) else "token ids"
        problem = f"has {data.inputs} {what}, and the trial's data have {model.inputs}"
    else:
        check_tokenizer(f"evaluate.data.{name}", data, tokenizer_of(model))
        return
    raise ConfigError(f"evaluate.data.{name}: {problem}; choose data like those")


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


def restore(run: Run) -> None:
    """Continue from the newest checkpoint that verifies, or start fresh when there is none; a collective call."""
    run.at("restore")
    found: dict[str, Any] = {}
    if run.group.is_main:
        try:
            checkpoint.clean(run.attempt.run)
            found["name"], found["refused"] = checkpoint.newest_valid(run.attempt.run)
            rows = run.attempt.run.attempt_rows()
            run.interruptions = count_interruptions(rows)
            if (seconds := longest_stop_seconds(rows)) is not None:
                run.limit.observe_save(seconds)
        except CheckpointError as error:
            found["error"] = str(error)
    found = run.group.broadcast_json(found)
    if "error" in found:
        raise CheckpointError(found["error"])
    for refused in found["refused"]:
        run.progress.say(f"refused {refused}")
    if found["name"] is not None:
        saved, own = _load(run, found["name"], found["refused"])
        check_same(saved, run.facts)
        run.state.restore(saved.shared, own, run.group.device)
        run.resumed_from = saved.name
        run.saved_step = run.state.step
        reasons = why_inexact(saved.manifest.get("facts", {}), _machine(run.facts))
        if saved.manifest["world_size"] != run.group.world and (note := elastic.dropout_note(run.method)):
            reasons.append(note)
        run.exact = f"no, because {'; '.join(reasons)}" if reasons else "yes"
        run.progress.say(f"resumed from {saved.name} at step {saved.step} of {run.steps}; exact: {run.exact}")
    run.progress.start = run.state.step
    if run.tracker is not None:
        run.tracker.begin(run.state.tracked_step)


def _load(run: Run, name: str, refused: list[str]) -> tuple[checkpoint.Checkpoint, dict[str, Any]]:
    """A checkpoint and this rank's own part of it, made anew where other ranks saved it and that is allowed."""
    trial, group = run.trial, run.group
    if not trial.resources.elastic or checkpoint.world_size(run.attempt.run, name) == group.world:
        saved = checkpoint.load(run.attempt.run, group, name, refused)
        return saved, saved.own
    saved, parts = checkpoint.load_parts(run.attempt.run, name, refused)
    elastic.check_batch_norm(saved.shared["method"], trial.train.sync_batch_norm)
    return saved, elastic.merge(parts, seed=trial.train.seed, rank=group.rank, step=saved.step)


def _machine(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What exactness depends on beside config and data, which must be the same anyway."""
    return {key: value for key, value in facts.items() if key not in ("config", "data")}


def check_same(saved: checkpoint.Checkpoint, facts: Mapping[str, Any]) -> None:
    """Raise CheckpointError where the config or the data are not those that the checkpoint was made with."""
    before = saved.manifest.get("facts", {})
    told = differing_keys(before.get("config", {}), facts["config"])
    had, have = before.get("data"), facts["data"]
    if had is not None and had != have:
        counts = f"had {had['samples']} samples, have {have['samples']}"
        told.append(f"the data {counts if had['samples'] != have['samples'] else 'have other samples than they had'}")
    if told:
        raise CheckpointError(f"{saved.name}: goes on with another trial: {'; '.join(told[:5])}; put back what it was")


def describe_data(data: Split) -> dict[str, Any]:
    """How many samples there are, and a sha256 of some of them, spread evenly: enough to notice other data."""
    ids = torch.arange(0, len(data), max(len(data) // SAMPLES_HASHED, 1))[:SAMPLES_HASHED]
    columns = data.take(ids)
    if data.labels is not None:
        columns = {**columns, "labels": data.labels[ids.to(data.labels.device)]}
    digest = hashlib.sha256()
    for name in sorted(columns):
        digest.update(f"{name}{columns[name].dtype}{tuple(columns[name].shape)}".encode())
        digest.update(columns[name].cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return {"samples": len(data), "sha256": digest.hexdigest()}
