"""When a checkpoint is due, and what saving one does for the run."""

import time

from runner import checkpoint
from runner.errors import CheckpointError, NonFiniteLossError
from runner.run import Run

MAX_LOST_SECONDS = 15 * 60
MIN_SAVE_INTERVAL_SECONDS = 60


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
        checkpoint.save(
            run.attempt.run, run.group, run.attempt, state.step, state.shared(), state.own(), run.facts, run.faults
        )
        run.saved_step = state.step
    except CheckpointError as error:
        if not periodic:
            raise
        run.progress.say(f"checkpoint failed, training goes on: {error}")
    if run.group.is_main and (periodic or pruning):
        run.faults.at("checkpoint.prune")
        config = run.trial.checkpoint
        checkpoint.prune(
            run.attempt.run,
            keep=config.keep,
            keep_every_steps=config.keep_every_steps,
            best_step=state.best.get("step"),
        )
    plan_save(run, time.monotonic() - began)
    run.add_seconds("save", began)
