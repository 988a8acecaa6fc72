"""A search as Optuna's journal, which `optuna-dashboard` and one's own scripts read.

It is a cache of what the run folders say: whatever does not match them is written anew, and it may be deleted. It is
replaced as a whole, with the old lines first, so that a reader never sees a torn one and a kill leaves no lock.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna import Study, create_study, load_study
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial, TrialState

from runner.files import replacing
from runner.search_config import SearchOptions
from runner.study import Member, freeze, from_optuna

STATES = {
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "done",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


class Lines(BaseJournalBackend):  # type: ignore[misc]
    """The rows of a journal in memory."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        yield from self.rows[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self.rows.extend(logs)


def read_members(path: Path, search: SearchOptions) -> dict[str, Member]:
    """What a journal says of the trials of a search, by id; nothing where there is none, or a damaged one."""
    try:
        return {member.trial: member for member in _members(_open(path, search)[1], search)}
    except _DAMAGE:
        return {}


def write_members(path: Path, search: SearchOptions, members: Sequence[Member]) -> None:
    """Have the journal say this of the trials of a search, by adding to it where that is possible."""
    lines, study = _open_or_begin(path, search, members)
    before = len(lines.rows)
    known = {trial.user_attrs["trial"]: trial for trial in study.get_trials(deepcopy=False)}
    for member in sorted(members, key=lambda member: member.number):
        if member.trial not in known:
            study.add_trial(freeze(search, member))
        elif member.state != "running" and known[member.trial].state is TrialState.RUNNING:
            _finish(study, known[member.trial], freeze(search, member))
    if len(lines.rows) > before or not path.exists():
        with replacing(path) as file:
            file.write("".join(json.dumps(row, separators=(",", ":")) + "\n" for row in lines.rows).encode())


def _finish(study: Study, known: FrozenTrial, wanted: FrozenTrial) -> None:
    """Tell a study of the end of a trial that it took for running."""
    storage, number = study._storage, known._trial_id
    for step, value in wanted.intermediate_values.items():
        storage.set_trial_intermediate_value(number, step, value)
    storage.set_trial_user_attr(number, "stamp", wanted.user_attrs["stamp"])
    storage.set_trial_state_values(number, wanted.state, None if wanted.value is None else [wanted.value])


def _open_or_begin(path: Path, search: SearchOptions, members: Sequence[Member]) -> tuple[Lines, Study]:
    """The journal as it is where all that it says holds, else an empty one."""
    wanted = {member.trial: member for member in members}
    try:
        lines, study = _open(path, search)
        if all(_goes_on(member, wanted) for member in _members(study, search)):
            return lines, study
    except _DAMAGE:
        pass
    return _begin([], path, search)


def _goes_on(known: Member, wanted: Mapping[str, Member]) -> bool:
    """Whether what the journal says of a trial is so, or was so while the trial was running."""
    now = wanted.get(known.trial)
    return now is not None and (
        now == known or (known.state == "running" and (now.number, now.parameters) == (known.number, known.parameters))
    )


def _open(path: Path, search: SearchOptions) -> tuple[Lines, Study]:
    rows = [json.loads(line) for line in path.read_bytes().splitlines()]
    return _begin(rows, path, search)


def _begin(rows: list[dict[str, Any]], path: Path, search: SearchOptions) -> tuple[Lines, Study]:
    lines = Lines(rows)
    storage = JournalStorage(lines)
    # Called after the search, since a dashboard may be shown several.
    name = f"{path.parents[2].name} {path.parent.name}"
    if rows:
        return lines, load_study(storage=storage, study_name=name)
    return lines, create_study(storage=storage, study_name=name, direction=search.direction)


def _members(study: Study, search: SearchOptions) -> Iterator[Member]:
    for trial in study.get_trials(deepcopy=False):
        yield Member(
            trial=trial.user_attrs["trial"],
            number=trial.user_attrs["number"],
            parameters={key: from_optuna(search.parameters[key], value) for key, value in trial.params.items()},
            state=STATES[trial.state],  # type: ignore[arg-type]
            value=trial.value,
            reports=tuple(value for _, value in sorted(trial.intermediate_values.items())),
            stamp=trial.user_attrs["stamp"],
        )


_DAMAGE = (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, StopIteration, AssertionError)
