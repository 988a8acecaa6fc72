"""One trial on one rank: build, restore, loop, save, evaluate. Read it top to bottom."""

import contextlib
import math
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from runner import checkpoint, loader
from runner.attempt import Attempt
from runner.batch import Batch
from runner.config import Trial
from runner.errors import NonFiniteLossError
from runner.evaluate import evaluate
from runner.faults import NO_FAULTS, Faults
from runner.files import write_json
from runner.group import Group
from runner.heartbeat import Pulse
from runner.journal import Journal
from runner.method import BREAK_ALL, check_request, may_break_off, wish
from runner.optimizer import set_learning_rate
from runner.preemption import Interrupted, Preemption, Verdict
from runner.rendezvous import Place
from runner.resume import restore
from runner.run import Run, build
from runner.saving import attend_background, end_background, plan_save, save
from runner.search_trial import Pruning, check_metric
from runner.signs import classify
from runner.state import TrainState, rng_untouched
from runner.time_limit import TimeLimit


@dataclass(frozen=True)
class Outcome:
    """How an attempt left the loop."""

    verdict: Verdict
    """GO_ON: the trial is done."""

    step: int
    saved_at: float
    """time.time() when the state was safe on disk."""


def launch(
    trial: Trial,
    attempt: Attempt,
    group: Group,
    preemption: Preemption,
    *,
    place: Place,
    stop_after: int | None = None,
    faults: Faults = NO_FAULTS,
    journal: Journal | None = None,
    limit: TimeLimit | None = None,
    pulse: Pulse | None = None,
    pruning: Pruning | None = None,
) -> Outcome:
    """Train a trial to its end, or to the step at which its ranks agree to leave; a collective call.

    Raises: ConfigError, DataError, CheckpointError, NonFiniteLossError; anything a method raises.
    """
    pulse = pulse or Pulse()
    pulse.at("build")
    faults.at("build")
    run = build(trial, attempt, group, preemption, stop_after, faults, pulse)
    run.journal = journal
    run.limit = limit or run.limit
    run.pruning = pruning
    if pruning is not None and pruning.step is not None:
        run.stop = min(run.stop, pruning.step)
    restore(run)
    plan_save(run, save_seconds=0.0)
    state = run.state
    if group.is_main:
        attempt.record_start(
            job_id=place.job_id,
            launch=place.launch,
            world=group.world,
            step=state.step,
            steps=run.steps,
            resumed_from=run.resumed_from,
            exact=run.exact,
            code=run.facts["code"],
            nodes=place.nodes,
            reading=run.pulse.read(),
        )
    try:
        preemption.check(group)
        run.at("warm")
        warm_reducer(run)
        if state.step == 0:
            run.method.before_fit()
        close_step(run)
        keep_journal(run)
        train(run)
        save(run, pruning=True)
        run.pulse.at("end", state.step)
        run.method.after_fit()
        faults.at("result")
        write_result(run)
        faults.at("end")
        return Outcome(Verdict.GO_ON, state.step, time.time())
    except Interrupted as interruption:
        # The comparison under way must end on all ranks before anything else goes over the control group.
        preemption.settle()
        if interruption.verdict is not Verdict.LEAVE and state.step > 0:
            save(run)
        return Outcome(interruption.verdict, state.step, time.time())
    except Exception as error:
        # Who lost a peer has nothing to say of steps; the rank that ended has.
        if (cause := classify(error)) != "peer crash":
            attempt.record_crash(error, cause, state.step)
        raise
    finally:
        end_background(run)
        run.progress.close()
        if run.tracker is not None:
            run.tracker.close()


def warm_reducer(run: Run) -> None:
    """Two backward passes without effect, so that DDP's buckets are what they will be for the rest of the run.

    DDP rebuilds its buckets after the first backward pass. With three ranks and more the order of a sum depends on
    the buckets, so a resumed process would otherwise reduce its first step differently from the one it continues.
    """
    if run.group.world == 1 or run.state.step >= run.stop:
        return
    buffers = [buffer.clone() for buffer in run.method.buffers()]
    window = next(_batches(run, run.position + 1))
    batch = make_batch(run, window[0], run.plan.epoch(run.position))
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
    batches = _batches(run) if not run.at_end else iter(())
    compares = run.group.world > 1 and may_break_off(run.method)
    run.method.train()
    while not run.at_end:
        run.at("step")
        request = 0
        epoch, index = divmod(run.position, plan.steps_per_epoch)
        if index == 0:
            run.pulse.at("epoch", state.step)
            request = max(request, wish(run.method.before_fit_epoch, epoch))
        request = max(request, wish(run.method.before_fit_step, state.step))
        set_learning_rate(state.optimizer, run.schedule(state.step))
        began = time.monotonic()
        train_step(run, next(batches), epoch)
        run.limit.observe_step(time.monotonic() - began)
        state.step += 1
        request = max(request, wish(run.method.after_fit_step, state.step))
        if index + 1 == plan.steps_per_epoch:
            run.pulse.at("epoch.end", state.step)
            request = max(request, wish(run.method.after_fit_epoch, epoch))
            run.faults.at("epoch.end")
        run.at("step.end")
        run.progress.advance(state.step)
        if trial.rehearse is not None:
            rehearse(run)

        attend_background(run)
        if compares:
            # Now, and not with the next comparison of flags, whose step depends on the clock.
            request = run.group.agree_max(request)
        answer = run.preemption.poll(run.group, state.step, time.monotonic() >= run.next_save)
        if answer.verdict is Verdict.LEAVE:
            raise Interrupted(answer.verdict)
        if request:
            check_request(run.method)
            state.finished = request == BREAK_ALL
            state.skipped += -run.position % plan.steps_per_epoch
            batches = _batches(run)
        close_step(run, answer.verdict)
        keep_journal(run)
        every_steps = trial.checkpoint.every_steps
        if answer.verdict:
            raise Interrupted(answer.verdict)
        if answer.save or (every_steps and state.step % every_steps == 0):
            save(run, periodic=True)
    run.preemption.settle()


def _batches(run: Run, stop: int | None = None) -> Iterator[list[loader.Part]]:
    """The windows from the next step on, up to the planned end or position `stop`."""
    assert run.data.train is not None
    workers = run.trial.train.workers if stop is None else 0
    return loader.iterate(run.data.train, run.plan, run.group, run.position, stop or run.steps, workers)


def train_step(run: Run, window: list[loader.Part], epoch: int) -> None:
    """One optimizer step over the micro-batches of its window."""
    state, precision = run.state, run.state.precision
    for index, part in enumerate(window):
        batch = make_batch(run, part, epoch)
        is_last = index + 1 == len(window)
        # Ranks exchange gradients once a step, in the backward pass of the last micro-batch.
        exchange = contextlib.nullcontext() if is_last or run.group.world == 1 else run.model.no_sync()  # type: ignore[attr-defined]
        with exchange:
            run.at("forward")
            with precision.autocast():
                output = run.model(batch, state.step)
            run.at("backward")
            precision.backward(output.loss / len(window) if len(window) > 1 else output.loss)
        state.meters.add(output.measurements)
    run.at("update")
    norm = precision.step(state.optimizer, run.trial.train.max_grad_norm)
    state.optimizer.zero_grad()
    if norm is not None:
        state.meters.put("grad_norm", norm)


def make_batch(run: Run, part: loader.Part, epoch: int) -> Batch:
    assert run.data.train is not None
    return loader.train_batch(run.data.train, part, run.trial.views, run.trial.train.seed, epoch)


def close_step(run: Run, verdict: Verdict = Verdict.GO_ON) -> None:
    """Evaluate and write the row of the step just done, if due and not done before an interruption.

    A row holds the training and evaluation metrics of its step together, so it waits for the evaluation; where the
    ranks have agreed to leave, the next attempt does both. Raises: Interrupted, NonFiniteLossError.
    """
    state = run.state
    begun = state.step > 0 or run.steps == 0
    evaluates = bool(run.data.tests) and begun and (run.at_end or evaluation_is_due(run))
    writes = begun and (evaluates or run.at_end or state.step % run.trial.tracking.every_steps == 0)
    if not writes or state.tracked_step >= state.step or (evaluates and verdict):
        return
    found: dict[str, float] = {}
    if evaluates:
        if not state.meters.is_finite(run.group):
            raise NonFiniteLossError(f"the loss became nan or inf {_since_the_last_row(state)}")
        run.at("evaluate")
        # Libraries draw from the global generators when they are first imported, which a resumed process does again.
        with rng_untouched():
            found, is_enough = evaluate(
                run.method,
                run.probes,
                run.data.probe_train,
                run.data.tests,
                group=run.group,
                preemption=run.preemption,
                seed=run.trial.train.seed,
                views=run.trial.views,
                faults=run.faults,
                pulse=run.pulse,
            )
        run.at("evaluate.end")
        run.method.train()
        state.finished = state.finished or is_enough
        state.evaluated_step = state.step
        keep_best(run, found)
        run.note_seconds()
    row = {f"train/{name}": value for name, value in state.meters.flush(run.group).items()}
    if not math.isfinite(row.get("train/loss", 0.0)):
        raise NonFiniteLossError(f"the loss became {row['train/loss']} {_since_the_last_row(state)}")
    if row:
        row["train/learning_rate"] = state.optimizer.param_groups[0]["lr"]
    state.tracked_step = state.step
    if run.tracker is not None:
        run.tracker.write(state.step, row | found)
    run.progress.report(state.step, row | found)
    if evaluates and run.pruning is not None:
        check_metric(run.pruning.search, found)
        if not run.at_end:
            prune(run)


def _since_the_last_row(state: TrainState) -> str:
    return f"between steps {max(state.tracked_step, 0) + 1} and {state.step}"


def prune(run: Run) -> None:
    """End a trial of a search here, if it is to be pruned by what was just evaluated."""
    assert run.pruning is not None
    with rng_untouched():
        if run.pruning.decide(run.state.step, run.group, run.faults):
            run.stop = run.state.step
            run.progress.say(f"pruned at step {run.stop} of {run.steps}: others were better by then")


def keep_journal(run: Run) -> None:
    if run.journal is not None:
        run.journal.write(run.state)


def evaluation_is_due(run: Run) -> bool:
    config = run.trial.evaluate
    if config.every_steps:
        return run.state.step % config.every_steps == 0
    if config.every_epochs:
        return run.position % (config.every_epochs * run.plan.steps_per_epoch) == 0
    return False


def keep_best(run: Run, found: dict[str, float]) -> None:
    name = next(iter(found), None)
    if name is not None and found[name] > run.state.best.get("value", -math.inf):
        run.state.best = {"metric": name, "value": found[name], "step": run.state.step}


def write_result(run: Run) -> None:
    """The end of the attempt, then the last thing a trial does: its result, whole or not at all."""
    fingerprint = run.state.fingerprint(run.group)
    run.sum_seconds()
    if run.tracker is None:
        return
    # No rank writes any more: what one of them wrote after another had given a checkpoint up goes, too.
    checkpoint.clean(run.attempt.run)
    rows = run.tracker.last_values()
    run.attempt.record_end(
        step=run.state.step, cause="done", requeue=False, signal_to_saved_seconds=None, reading=run.pulse.read()
    )
    write_json(
        run.attempt.run.result,
        {
            "state": "done",
            **({} if run.pruning is None else {"pruned": run.pruning.step is not None}),
            "step": run.state.step,
            "steps": run.steps,
            "metrics": rows,
            "best": run.state.best or None,
            "fingerprint": fingerprint,
            "attempts": run.attempt.number,
            "seconds": run.state.seconds,
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
