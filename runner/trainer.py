"""One trial on one rank: build, restore, loop, save, evaluate. Read it top to bottom."""

import contextlib
import inspect
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from runner import checkpoint, loader, named
from runner.attempt import Attempt
from runner.batch import Batch
from runner.config import Trial, check_warmup
from runner.dataset import ImageSet
from runner.errors import CheckpointError, NonFiniteLossError
from runner.evaluate import evaluate
from runner.group import Group
from runner.method import BreakAllEpochs, BreakEpoch, Method, Output
from runner.optimizer import build_optimizer, set_learning_rate
from runner.precision import Precision
from runner.preemption import Interrupted, Preemption, Verdict
from runner.progress import Progress
from runner.rendezvous import Place
from runner.rundir import write_json
from runner.schema import Options
from runner.state import TrainState, rng_untouched, seed_everything
from runner.tracking import Tracker
from runner.views import make_views

BREAK_EPOCH, BREAK_ALL = 1, 2

_DDP_OPTIONS = inspect.signature(DistributedDataParallel).parameters
_RANK_LOCAL_BUFFERS: dict[str, Any] = {
    # torch 2.13 renamed it; either way no rank overwrites another's batch statistics at every step
    "forward_sync_buffers" if "forward_sync_buffers" in _DDP_OPTIONS else "broadcast_buffers": False
}


MAX_LOST_SECONDS = 15 * 60
MIN_SAVE_INTERVAL_SECONDS = 60


@dataclass(frozen=True)
class Outcome:
    """How an attempt left the loop."""

    verdict: Verdict
    """GO_ON: the trial is done."""

    step: int
    saved_at: float
    """time.time() when the state was safe on disk."""


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
    train: ImageSet
    test: ImageSet | None
    probes: dict[str, Options]
    steps: int
    """Planned optimizer steps."""

    stop: int
    """Steps after which this run ends: `steps`, or fewer when debugging."""

    tracker: Tracker | None
    progress: Progress
    facts: dict[str, Any]
    """What every checkpoint's manifest says of where it comes from."""

    resumed_from: str | None = None
    saved_step: int = -1
    """The step of the newest checkpoint of this attempt's lineage."""

    next_save: float = math.inf
    """time.monotonic() from which a periodic checkpoint is due; counts on rank 0 only."""


def launch(
    trial: Trial,
    attempt: Attempt,
    group: Group,
    preemption: Preemption,
    *,
    place: Place,
    stop_after: int | None = None,
) -> Outcome:
    """Train a trial to its end, or to the step at which its ranks agree to leave; a collective call.

    Raises: ConfigError, DataError, CheckpointError, NonFiniteLossError; anything a method raises.
    """
    began = time.monotonic()
    run = build(trial, attempt, group, preemption, stop_after)
    restore(run)
    state = run.state
    if group.is_main:
        attempt.record_start(
            job_id=place.job_id,
            launch=place.launch,
            world=group.world,
            step=state.step,
            steps=run.steps,
            resumed_from=run.resumed_from,
        )
    _add_seconds(run, "start", began)
    try:
        preemption.check(group)
        warm_reducer(run)
        if state.step == 0:
            run.method.before_fit()
        close_step(run)
        train(run)
        save(run, pruning=True)
        run.method.after_fit()
        write_result(run)
        return Outcome(Verdict.GO_ON, state.step, time.time())
    except Interrupted as interruption:
        # The comparison under way must end on all ranks before anything else goes over the control group.
        preemption.settle()
        if state.step != run.saved_step and state.step > 0:
            save(run)
        return Outcome(interruption.verdict, state.step, time.time())
    finally:
        run.progress.close()
        if run.tracker is not None:
            run.tracker.close()


def build(trial: Trial, attempt: Attempt, group: Group, preemption: Preemption, stop_after: int | None) -> Run:
    """Make every part of a trial from its config."""
    options = named.resolve_trial(trial)
    if trial.train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=False)
        torch.backends.cudnn.benchmark = False
    # The same weights on every rank; the per-rank streams start after the model is made.
    seed_everything(trial.train.seed, rank=0)
    full = named.load("data", trial.data.name).build(options.data, "train")
    data = loader.resident(full, group.device)
    test = named.load("data", trial.data.name).build(options.data, "test") if options.probes else None
    plan = loader.Plan(len(data), trial.train.batch_size, trial.train.accumulate, trial.train.seed)
    steps = trial.train.steps or (trial.train.epochs or 0) * plan.steps_per_epoch
    check_warmup(getattr(options.schedule, "warmup_steps", 0), steps)
    encoder = named.load("encoders", trial.encoder.name).build(options.encoder, data.images.shape[1])
    method = named.load("methods", trial.method.name).build(options.method, encoder, group, steps).to(group.device)
    if trial.init_from:
        checkpoint.load_weights(method, Path(trial.init_from))
    precision = Precision(trial.train.precision, group.device)
    state = TrainState(method, build_optimizer(method, trial.optimizer), precision)
    seed_everything(trial.train.seed, rank=1 + group.rank)
    model: Callable[[Batch, int], Output] = method
    if group.world > 1:
        model = DistributedDataParallel(
            method,
            device_ids=[group.device] if group.device.type == "cuda" else None,
            gradient_as_bucket_view=True,
            process_group=group.data,
            **_RANK_LOCAL_BUFFERS,
        )
    stop = min(steps, stop_after) if stop_after else steps
    facts = {"trial": attempt.run.trial, "torch": torch.__version__, "device": _device_name(group)}
    return Run(
        trial=trial,
        attempt=attempt,
        group=group,
        preemption=preemption,
        method=method,
        model=model,
        state=state,
        schedule=named.load("schedules", trial.schedule.name).build(options.schedule, steps),
        plan=plan,
        train=data,
        test=test,
        probes=options.probes,
        steps=steps,
        stop=stop,
        tracker=Tracker(attempt, trial.tracking) if group.is_main else None,
        progress=Progress(stop, 0, shown=group.is_main),
        facts=facts,
    )


def restore(run: Run) -> None:
    """Continue from the newest checkpoint that verifies, or start fresh when there is none; a collective call."""
    found: dict[str, Any] = {}
    if run.group.is_main:
        try:
            checkpoint.clean(run.attempt.run)
            found["name"], found["refused"] = checkpoint.newest_valid(run.attempt.run)
        except CheckpointError as error:
            found["error"] = str(error)
    found = run.group.broadcast_json(found)
    if "error" in found:
        raise CheckpointError(found["error"])
    for refused in found["refused"]:
        run.progress.say(f"refused {refused}")
    if found["name"] is not None:
        saved = checkpoint.load(run.attempt.run, run.group, found["name"], found["refused"])
        run.state.restore(saved.shared, saved.own, run.group.device)
        run.resumed_from = saved.name
        run.saved_step = run.state.step
        differing = [
            f"{key} was {saved.manifest[key]}, is {value}"
            for key, value in run.facts.items()
            if saved.manifest.get(key) != value
        ]
        exact = f"no, because {'; '.join(differing)}" if differing else "yes"
        run.progress.say(f"resumed from {saved.name} at step {saved.step} of {run.steps}; exact: {exact}")
    run.progress.start = run.state.step
    plan_save(run, save_seconds=0.0)
    if run.tracker is not None:
        run.tracker.begin(run.state.tracked_step)


def warm_reducer(run: Run) -> None:
    """Two backward passes without effect, so that DDP's buckets are what they will be for the rest of the run.

    DDP rebuilds its buckets after the first backward pass. With three ranks and more the order of a sum depends on
    the buckets, so a resumed process would otherwise reduce its first step differently from the one it continues.
    """
    if run.group.world == 1 or run.state.step >= run.stop:
        return
    buffers = [buffer.clone() for buffer in run.method.buffers()]
    position = run.state.step + run.state.skipped
    (parts, *_) = loader.iterate(run.train, run.plan, run.group, position, position + 1)
    batch = make_batch(run, parts[0], run.plan.epoch(position))
    with rng_untouched():
        for _ in range(2):
            with run.state.precision.autocast():
                output = run.model(batch, run.state.step)
            torch.autograd.backward(output.loss * 0)
    run.state.optimizer.zero_grad()
    with torch.no_grad():
        for buffer, before in zip(run.method.buffers(), buffers, strict=True):
            buffer.copy_(before)


def train(run: Run) -> None:
    """The loop: every iteration is one optimizer step and what is due after it."""
    state, plan, trial = run.state, run.plan, run.trial
    batches = _batches(run)
    request = 0
    run.method.train()
    while state.step < run.stop and state.step + state.skipped < run.steps and not state.finished:
        epoch, index = divmod(state.step + state.skipped, plan.steps_per_epoch)
        if index == 0:
            request = max(request, wish(run.method.before_fit_epoch, epoch))
        request = max(request, wish(run.method.before_fit_step, state.step))
        set_learning_rate(state.optimizer, run.schedule(state.step))
        train_step(run, next(batches), epoch)
        state.step += 1
        request = max(request, wish(run.method.after_fit_step, state.step))
        if index + 1 == plan.steps_per_epoch:
            request = max(request, wish(run.method.after_fit_epoch, epoch))
        run.progress.advance(state.step)
        if trial.rehearse is not None:
            rehearse(run)

        answer = run.preemption.poll(run.group, state.step, time.monotonic() >= run.next_save, request)
        if answer.request:
            request = 0
            state.finished = answer.request == BREAK_ALL
            state.skipped += -(state.step + state.skipped) % plan.steps_per_epoch
            batches = _batches(run)
        close_step(run, answer.verdict)
        every_steps = trial.checkpoint.every_steps
        if answer.save or (every_steps and state.step % every_steps == 0):
            save(run, periodic=True)
        if answer.verdict:
            raise Interrupted(answer.verdict)
    run.preemption.settle()


def wish(hook: Callable[[int], None], when: int) -> int:
    """Call a hook; what it raised to end the epoch or the run becomes a wish that the ranks agree on."""
    try:
        hook(when)
    except BreakEpoch:
        return BREAK_EPOCH
    except BreakAllEpochs:
        return BREAK_ALL
    return 0


def _batches(run: Run) -> Iterator[list[loader.Part]]:
    position = run.state.step + run.state.skipped
    return loader.iterate(run.train, run.plan, run.group, position, run.steps, run.trial.train.workers)


def train_step(run: Run, window: list[loader.Part], epoch: int) -> None:
    """One optimizer step over the micro-batches of its window."""
    state, precision = run.state, run.state.precision
    for index, part in enumerate(window):
        batch = make_batch(run, part, epoch)
        is_last = index + 1 == len(window)
        # Ranks exchange gradients once a step, in the backward pass of the last micro-batch.
        exchange = contextlib.nullcontext() if is_last or run.group.world == 1 else run.model.no_sync()  # type: ignore[attr-defined]
        with exchange:
            with precision.autocast():
                output = run.model(batch, state.step)
            precision.backward(output.loss / len(window) if len(window) > 1 else output.loss)
        state.meters.add(output.measurements)
    norm = precision.step(state.optimizer, run.trial.train.max_grad_norm)
    state.optimizer.zero_grad()
    if norm is not None:
        state.meters.put("grad_norm", norm)


def make_batch(run: Run, part: loader.Part, epoch: int) -> Batch:
    """Random views of one micro-batch, each a function of (seed, epoch, sample, view)."""
    large, small = make_views(
        part.images,
        part.ids,
        run.trial.views,
        seed=run.trial.train.seed,
        epoch=epoch,
        mean=run.train.mean,
        std=run.train.std,
    )
    return Batch(large, small, part.labels, part.ids)


def close_step(run: Run, verdict: Verdict = Verdict.GO_ON) -> None:
    """Evaluate and write the row of the step just done, if due and not done before an interruption.

    A row holds the training and evaluation metrics of its step together, so it waits for the evaluation; where the
    ranks have agreed to leave, the next attempt does both. Raises: Interrupted, NonFiniteLossError.
    """
    state = run.state
    last = state.step == run.stop or state.finished or state.step + state.skipped >= run.steps
    evaluates = bool(run.probes) and state.step > 0 and (last or evaluation_is_due(run))
    writes = evaluates or last or state.step % run.trial.tracking.every_steps == 0
    if not writes or state.tracked_step >= state.step or state.step == 0 or (evaluates and verdict):
        return
    found: dict[str, float] = {}
    if evaluates:
        assert run.test is not None
        began = time.monotonic()
        # Libraries draw from the global generators when they are first imported, which a resumed process does again.
        with rng_untouched():
            found = evaluate(
                run.method,
                run.probes,
                run.train,
                run.test,
                group=run.group,
                preemption=run.preemption,
                seed=run.trial.train.seed,
            )
        run.method.train()
        state.evaluated_step = state.step
        keep_best(run, found)
        _add_seconds(run, "evaluate", began)
    row = {f"train/{name}": value for name, value in state.meters.flush(run.group).items()}
    if not math.isfinite(row.get("train/loss", 0.0)):
        raise NonFiniteLossError(
            f"the loss became {row['train/loss']} between steps {max(state.tracked_step, 0) + 1} and {state.step}"
        )
    if row:
        row["train/learning_rate"] = state.optimizer.param_groups[0]["lr"]
    state.tracked_step = state.step
    if run.tracker is not None:
        run.tracker.write(state.step, row | found)
    run.progress.report(state.step, row | found)


def evaluation_is_due(run: Run) -> bool:
    config, position = run.trial.evaluate, run.state.step + run.state.skipped
    if config.every_steps:
        return run.state.step % config.every_steps == 0
    if config.every_epochs:
        return position % (config.every_epochs * run.plan.steps_per_epoch) == 0
    return False


def keep_best(run: Run, found: dict[str, float]) -> None:
    name = next(iter(found), None)
    if name is not None and found[name] > run.state.best.get("value", -math.inf):
        run.state.best = {"metric": name, "value": found[name], "step": run.state.step}


def plan_save(run: Run, save_seconds: float) -> None:
    """Set rank 0's clock for the next periodic checkpoint; the other ranks follow it."""
    if run.group.is_main:
        interval_seconds = save_interval_seconds(run.trial.checkpoint.every_minutes, save_seconds)
        run.next_save = time.monotonic() + interval_seconds


def save_interval_seconds(every_minutes: float | str, save_seconds: float) -> float:
    """`auto`: a kill costs at most 15 minutes, and short of that saving takes at most 1 % of the time."""
    if not isinstance(every_minutes, str):
        return every_minutes * 60
    return min(max(100 * save_seconds, MIN_SAVE_INTERVAL_SECONDS), MAX_LOST_SECONDS)


def save(run: Run, periodic: bool = False, pruning: bool = False) -> None:
    """Write a checkpoint of this step unless there is one; a collective call.

    A periodic save that fails (a full disk) is reported and training goes on from the older checkpoints.
    Raises: CheckpointError; SupersededError; NonFiniteLossError rather than saving a poisoned state.
    """
    state = run.state
    if state.step == run.saved_step:
        return
    if not run.state.meters.is_finite(run.group):
        raise NonFiniteLossError(f"the loss became nan or inf before step {state.step}")
    began = time.monotonic()
    if run.tracker is not None:
        run.tracker.sync()
    try:
        checkpoint.save(run.attempt.run, run.group, run.attempt, state.step, state.shared(), state.own(), run.facts)
        run.saved_step = state.step
    except CheckpointError as error:
        if not periodic:
            raise
        run.progress.say(f"checkpoint failed, training goes on: {error}")
    if run.group.is_main and (periodic or pruning):
        config = run.trial.checkpoint
        checkpoint.prune(
            run.attempt.run,
            keep=config.keep,
            keep_every_steps=config.keep_every_steps,
            best_step=state.best.get("step"),
        )
    plan_save(run, time.monotonic() - began)
    _add_seconds(run, "save", began)


def write_result(run: Run) -> None:
    """The end of the attempt, then the last thing a trial does: its result, whole or not at all."""
    fingerprint = run.state.fingerprint(run.group)
    if run.tracker is None:
        return
    rows = run.tracker.last_values()
    run.attempt.record_end(step=run.state.step, cause="done", requeue=False, signal_to_saved_seconds=None)
    write_json(
        run.attempt.run.result,
        {
            "state": "done",
            "step": run.state.step,
            "steps": run.steps,
            "metrics": rows,
            "best": run.state.best or None,
            "fingerprint": fingerprint,
            "attempts": run.attempt.number,
            "seconds": {name: round(value, 3) for name, value in run.state.seconds.items()},
        },
    )
    run.progress.say(f"done after {run.state.step} steps, fingerprint {fingerprint[:12]}")


def rehearse(run: Run) -> None:
    """Interrupt the first attempt on purpose, with the real signal, to show that nothing is lost."""
    config = run.trial.rehearse
    assert config is not None
    if run.attempt.number == 1 and run.state.step == config.at_step and run.group.rank == run.group.world - 1:
        print(
            f"runner: rehearsal: rank {run.group.rank} sends itself {config.signal} at step {run.state.step}",
            flush=True,
        )
        os.kill(os.getpid(), getattr(signal, f"SIG{config.signal}"))


def _add_seconds(run: Run, name: str, began: float) -> None:
    run.state.seconds[name] = run.state.seconds.get(name, 0.0) + time.monotonic() - began


def _device_name(group: Group) -> str:
    return torch.cuda.get_device_name(group.device) if group.device.type == "cuda" else "cpu"
