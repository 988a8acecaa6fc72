"""What a report tells of: trials of one or more sweeps, read once."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.files import read_json
from runner.results import Setting, TrialResult, group_seeds, metric_names, read_results
from runner.results.best import Goal, higher_is_better
from runner.rundir import RunDir, find_trials
from runner.status import Row, read_statuses
from runner.tables import describe, varying_keys


@dataclass(frozen=True)
class Material:
    """The trials of a report, by themselves and grouped over their seeds."""

    name: str
    rows: list[Row]
    results: list[TrialResult]
    """In the order of `rows`."""

    groups: list[Setting]
    goal: Goal | None
    """The metric by which settings are compared; None before there are metrics."""

    origins: list[dict[str, Any]]
    """provenance.json of each trial, empty where it cannot be read."""

    now: float
    """Unix seconds."""

    @property
    def runs(self) -> list[RunDir]:
        return [row.run for row in self.rows]

    @property
    def keys(self) -> list[str]:
        """In which the groups differ."""
        return varying_keys([group.settings for group in self.groups])

    def label(self, group: Setting) -> str:
        return describe(group.settings, self.keys, group.known) or "all trials"

    def best_run(self) -> RunDir | None:
        """Of the best group the best trial that is done; None before there is one."""
        if self.goal is None:
            return None
        goal = self.goal
        for group in self.ranked():
            done = [trial for trial in group.done if goal.metric in trial.metrics]
            if done:
                return min(done, key=lambda trial: goal.rank(trial.metrics[goal.metric])).run
        return None

    def ranked(self) -> list[Setting]:
        """The groups, the best first: by their mean, those with the most trials done before the others."""
        goal = self.goal
        if goal is None:
            return self.groups
        most = max(len(group.values(goal.metric)) for group in self.groups)

        def place(group: Setting) -> tuple[bool, float]:
            spread = group.spread(goal.metric)
            return len(group.values(goal.metric)) < most, goal.rank(None if spread is None else spread.mean)

        return sorted(self.groups, key=place)


def read_material(folders: Sequence[Path], now: float) -> Material:
    """Everything of the sweeps in these folders; asks a scheduler once for what files leave open."""
    runs = [run for folder in folders for run in find_trials(folder)]
    rows = read_statuses(runs)
    results = read_results(rows)
    names = metric_names([result for result in results if result.state == "done"]) or metric_names(results)
    goal = Goal(names[0], higher_is_better(names[0])) if names else None
    name = " and ".join(folder.name for folder in folders)
    return Material(name, rows, results, group_seeds(results), goal, [_read(run.provenance) for run in runs], now)


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_json(path) or {}
    except (OSError, ValueError):
        return {}
