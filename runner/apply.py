"""Carry a plan out: exactly what was shown, under the experiment's lock, or nothing when the world has moved."""

from dataclasses import dataclass

from runner.ahead import look_ahead
from runner.cancel import cancel_jobs, mark_cancelled
from runner.config import Trial
from runner.errors import ConfigError
from runner.faults import NO_FAULTS, Faults
from runner.files import masked, replacing
from runner.grouped_yaml import GroupTexts, split_text
from runner.plan import Plan, find_move
from runner.preflight import check_same, resolved
from runner.request import Request, holding
from runner.rundir import RunDir
from runner.submit import submit_chosen


@dataclass(frozen=True)
class Applied:
    """How many trials something was done about."""

    submitted: int = 0
    updated: int = 0
    cancelled: int = 0
    spared: int = 0
    """Would be cancelled, with consent."""

    def __str__(self) -> str:
        told = [f"{count} {word}" for word, count in vars(self).items() if count and word != "spared"]
        return ", ".join(told) or "nothing done"


def apply(request: Request, shown: Plan, prune: bool, command: list[str], faults: Faults = NO_FAULTS) -> Applied:
    """Submit, update and, with `prune`, cancel what the plan says; `command` is for the provenance of new trials.

    Raises: ConfigError, before anything is changed, when the plan would not be the same now; SubmissionError when the
    cluster refuses.
    """
    with holding(request):
        plan = request.settled_plan()
        if move := find_move(shown, plan):
            raise ConfigError(f"the plan is out of date: {move}; nothing was done, plan again")
        trial_of = {RunDir(request.folder / variant.trial_id): trial for variant, trial in request.trials}
        texts = GroupTexts()
        updated = [item.run for item in plan.of("update")]
        for run in [*updated, *(item.run for item in plan.of("submit"))]:
            check_same(run, trial_of[run], texts)
        ahead = look_ahead(plan, request)
        gone = [item.run for item in plan.of("cancel")]
        cancelled = _cancel(gone) if prune else 0
        for run in updated:
            faults.at("apply.update")
            update_config(run, trial_of[run], texts)
        sent = submit_chosen(plan, request, command, ahead, faults)
    return Applied(len(sent), len(updated), cancelled, 0 if prune else len(gone))


def update_config(run: RunDir, trial: Trial, texts: GroupTexts) -> None:
    """Bring the settings of a config up to date that do not change what the trial computes; it keeps its rehearsal."""
    old, new = split_text(run.config.read_text(encoding="utf-8")), texts.of(resolved(trial))
    kept = {key: old[key] for key in ("rehearse",) if key in old}
    with masked(run.umask()), replacing(run.config) as file:
        file.write("".join((new | kept).values()).encode())


def _cancel(runs: list[RunDir]) -> int:
    cancelled, jobs = mark_cancelled(runs)
    cancel_jobs(jobs)
    return len(cancelled)
