"""When a checkpoint is due, and what saving one does for the run.

Those at an interruption and at the end are written while training waits. The periodic ones are written in the
background, from a copy of the state; they count once they are committed, which the run learns at a step boundary.
"""

import contextlib
import time
from collections.abc import Callable

from runner import background, checkpoint
from runner.background import Flight, GivenUpError
from runner.errors import CheckpointError, NonFiniteLossError
from runner.interval import is_news, mean_seconds_to_interruption, save_interval_seconds
from runner.processes import log
from runner.run import Run
from runner.snapshot import Snapshot, size_bytes

BACKGROUND_BYTES = 8 * 2**20
"""A smaller state is on disk before a thread would have got going, so training waits for it."""


def plan_save(run: Run, save_seconds: float, began: float | None = None) -> None:
    """Set rank 0's clock for the next periodic checkpoint, after one of which the copy was made at `began`, or now.

    The other ranks follow it. `save_seconds` is what training lost to the last one; 0 when there was none yet.
    """
    if not run.group.is_main:
        return
    now, every_minutes = time.monotonic(), run.trial.checkpoint.every_minutes
    mtti_seconds = mean_seconds_to_interruption(run.interruptions, now - run.began)
    interval_seconds = save_interval_seconds(every_minutes, save_seconds, mtti_seconds)
    run.next_save = (now if began is None else began) + interval_seconds
    if save_seconds and is_news(interval_seconds, run.told_interval_seconds):
        run.progress.say(
            f"a checkpoint every {interval_seconds:.0f} s: one costs {save_seconds:.2f} s, and an interruption without "
            f"warning is expected in {mtti_seconds / 3600:.1f} h"
        )
        run.told_interval_seconds = interval_seconds
    elif not save_seconds:
        run.told_interval_seconds = interval_seconds


def save(run: Run, periodic: bool = False, pruning: bool = False) -> None:
    """Write a checkpoint of this step unless there is one; a collective call.

    A periodic one may be in flight when this returns. One that fails (a full disk) is reported and training goes on
    from the older checkpoints. Raises: CheckpointError; SupersededError; NonFiniteLossError rather than saving a
    poisoned state.
    """
    began = time.monotonic()
    state = run.state
    run.pulse.at("checkpoint", state.step)
    settle_background(run, hurry=not periodic)
    if state.step == run.saved_step:
        return
    if not run.state.meters.is_finite(run.group):
        raise NonFiniteLossError(f"the loss became nan or inf before step {state.step}")
    if periodic and not run.group.agree_max(int(run.snapshot is None)):
        depart(run, began)
        return
    if run.tracker is not None:
        run.tracker.sync()
    run.sum_seconds()
    try:
        checkpoint.save(
            run.attempt.run, run.group, run.attempt, state.step, state.shared(), state.own(), run.facts, run.faults
        )
        run.saved_step = state.step
    except CheckpointError as error:
        if not periodic:
            raise
        tell_failure(run, error)
    if run.group.is_main and (periodic or pruning):
        pruner(run)()
    run.limit.observe_save(time.monotonic() - began)
    plan_save(run, time.monotonic() - began)
    run.note_seconds()


def depart(run: Run, began: float) -> None:
    """Copy the state and have the copy written in the background."""
    state, prune, snapshot = run.state, pruner(run), run.snapshot
    assert snapshot is not None
    run.sum_seconds()
    step, facts = state.step, dict(run.facts)
    copied = snapshot.take({"shared": state.shared() if run.group.is_main else {}, "own": state.own()})

    def work(check: Callable[[], None]) -> None:
        snapshot.wait()
        if run.tracker is not None:
            run.tracker.sync()
        shared, own = copied["shared"], copied["own"]
        background.write(run.attempt.run, run.group, run.attempt, step, shared, own, facts, check, run.faults)
        if run.group.is_main:
            prune()

    run.flight = Flight(step, began, time.monotonic() - began)
    run.saved_step_is_agreed = False
    # Until this one has landed rank 0 asks for no other.
    run.next_save = float("inf")
    run.background.start(work)
    run.note_seconds()


def attend_background(run: Run) -> None:
    """At a step boundary: take note of a checkpoint that has landed; after the first step, make room for a copy."""
    if run.background.is_over:
        land(run)
    if run.snapshot_is_due and run.trial.checkpoint.background:
        run.snapshot_is_due = False
        shared = run.state.shared()
        if run.trial.checkpoint.background == "always" or size_bytes(shared) >= BACKGROUND_BYTES:
            snapshot = run.snapshot = Snapshot(run.group.device)
            content = {"shared": shared if run.group.is_main else {}, "own": run.state.own()}
            run.background.start(lambda check: snapshot.reserve(content))


def settle_background(run: Run, hurry: bool) -> None:
    """Wait for what is in flight; in a hurry give it up, unless it is of this very step. A collective call then."""
    if run.background.is_busy:
        if hurry and run.flight is not None and run.flight.step != run.state.step:
            run.background.give_up()
        land(run)
    if hurry and not run.saved_step_is_agreed:
        run.saved_step = run.group.agree_max(run.saved_step)
        run.saved_step_is_agreed = True


def end_background(run: Run) -> None:
    """However the run ends: nothing goes on behind it, and what that comes to is of no interest any more."""
    if run.background.is_busy:
        run.background.give_up()
        with contextlib.suppress(Exception):
            run.background.collect()


def land(run: Run) -> None:
    """Wait for the end of what is in flight, and draw the consequences."""
    flight, run.flight = run.flight, None
    if flight is None:
        land_without_freight(run)
        return
    cpu_seconds = 0.0
    try:
        cpu_seconds = run.background.collect()
    except GivenUpError:
        return
    except (CheckpointError, OSError) as error:
        tell_failure(run, error)
    else:
        run.limit.observe_save(run.background.seconds)
        if run.group.is_main:
            run.saved_step = flight.step
    # On a machine without an idle core the training lost what the thread took.
    plan_save(run, flight.blocking_seconds + cpu_seconds, flight.began)
    run.save_background_seconds += cpu_seconds


def land_without_freight(run: Run) -> None:
    """The place for the copy is made, or there is no memory for it."""
    try:
        run.background.collect()
    except (MemoryError, RuntimeError) as error:
        run.snapshot = None
        print(f"runner: no memory for a copy of the state, so training waits for each checkpoint: {error}", flush=True)


def tell_failure(run: Run, error: Exception) -> None:
    """In the log of this rank: rank 0 knows of the others that they failed, and not why."""
    log(f"checkpoint failed, training goes on: {error}")


def pruner(run: Run) -> Callable[[], None]:
    """What removes the checkpoints that need not be kept, as of now; what cannot be removed stays, and is told of."""
    config, best_step = run.trial.checkpoint, run.state.best.get("step")

    def prune() -> None:
        try:
            run.faults.at("checkpoint.prune")
            checkpoint.prune(
                run.attempt.run, keep=config.keep, keep_every_steps=config.keep_every_steps, best_step=best_step
            )
        except OSError as error:
            log(f"older checkpoints stay: {error}")

    return prune
