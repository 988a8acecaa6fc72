"""Put a run back to where the last attempt left it, and say whether it goes on bit for bit from there."""

from collections.abc import Mapping
from typing import Any

from runner import checkpoint, elastic, lineage
from runner.errors import CheckpointError
from runner.exactness import why_inexact
from runner.experiment import differing_keys
from runner.export import load_weights
from runner.interval import count_interruptions, longest_stop_seconds
from runner.run import Run


def restore(run: Run) -> None:
    """Continue from the newest checkpoint that verifies, or start fresh when there is none; a collective call."""
    run.at("restore")
    found: dict[str, Any] = {}
    if run.group.is_main:
        try:
            checkpoint.clean(run.attempt.run)
            found["name"], found["refused"] = lineage.newest_valid(run.attempt.run)
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
        run.seconds_before = dict(run.state.seconds)
        run.resumed_from = saved.name
        run.saved_step = run.state.step
        reasons = why_inexact(saved.manifest.get("facts", {}), _machine(run.facts))
        if saved.manifest["world_size"] != run.group.world and (note := elastic.dropout_note(run.method)):
            reasons.append(note)
        run.exact = f"no, because {'; '.join(reasons)}" if reasons else "yes"
        run.progress.say(f"resumed from {saved.name} at step {saved.step} of {run.steps}; exact: {run.exact}")
    elif run.trial.init_path is not None:
        # Only here: a checkpoint has all of it, and the file may be gone by then.
        load_weights(run.method, run.trial.init_path)
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
