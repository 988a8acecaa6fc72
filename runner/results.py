"""Metrics of all trials of a sweep as a table, JSON or CSV; over seeds as mean and standard deviation.

No trial is ever left out: what is not done yet, or failed, is shown with its state and its last values.
"""

import csv
import io
import math
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from runner.differences import read_settings
from runner.errors import ConfigError
from runner.files import read_rows, replacing
from runner.record import is_evaluation, main_metric
from runner.status import Row
from runner.tables import format_value, new_table, same_text, short_names, varying_keys


@dataclass(frozen=True)
class TrialResult:
    """What one trial gave."""

    trial: str
    settings: dict[str, Any]
    """What sets the trials of the sweep apart, whoever set it: the sweep, the file or the command line."""

    state: str
    metrics: dict[str, float]
    overrides: dict[str, Any] = field(default_factory=dict)
    """What the sweep set."""

    def as_json(self) -> dict[str, Any]:
        return {
            "trial": self.trial,
            "overrides": self.overrides,
            "settings": self.settings,
            "state": self.state,
            "metrics": self.metrics,
        }


@dataclass(frozen=True)
class Spread:
    """One metric over the trials of a group that are done."""

    mean: float
    std: float | None
    """Sample standard deviation (n - 1); None for a single trial."""

    n: int


@dataclass(frozen=True)
class Setting:
    """Trials that differ in nothing but the key they are grouped over."""

    settings: dict[str, Any]
    trials: list[TrialResult]
    absent: list[Any]
    """Values of that key which other groups have and this one has not."""

    overrides: dict[str, Any] = field(default_factory=dict)
    """What the sweep set, but for that key."""

    @property
    def done(self) -> list[TrialResult]:
        return [trial for trial in self.trials if trial.state == "done"]

    @property
    def missing(self) -> list[TrialResult]:
        return [trial for trial in self.trials if trial.state != "done"]

    def spread(self, metric: str) -> Spread | None:
        values = [trial.metrics[metric] for trial in self.done if metric in trial.metrics]
        if not values:
            return None
        # fmean and stdev refuse or hide what is not finite; here a nan must show.
        if not all(map(math.isfinite, values)):
            return Spread(math.nan, math.nan, len(values))
        return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))

    def as_json(self) -> dict[str, Any]:
        spreads = {name: spread for name in metric_names(self.trials) if (spread := self.spread(name))}
        return {
            "overrides": self.overrides,
            "settings": self.settings,
            "trials": [trial.trial for trial in self.trials],
            "n": len(self.done),
            "missing": [{"trial": trial.trial, "state": trial.state} for trial in self.missing],
            "absent": self.absent,
            "metrics": {name: {"mean": s.mean, "std": s.std, "n": s.n} for name, s in spreads.items()},
        }


def read_results(rows: list[Row]) -> list[TrialResult]:
    """One result a trial, in the order given: final metrics, or the last ones of a trial that is not done."""
    settings = read_settings([row.run for row in rows], [row.record.overrides for row in rows])
    return [
        TrialResult(
            row.run.trial,
            own,
            row.state,
            row.record.metrics if row.state == "done" else _last_values(row),
            row.record.overrides,
        )
        for row, own in zip(rows, settings, strict=True)
    ]


def group_over(results: list[TrialResult], key: str) -> list[Setting]:
    """Trials that are equal but for `key`, a full key such as train.seed or its end, in order of appearance.

    Raises: ConfigError when no trial sets such a key.
    """
    keys = dict.fromkeys(name for result in results for name in result.settings)
    over = [name for name in keys if name == key or name.endswith(f".{key}")]
    if not over:
        raise ConfigError(f"--over {key}: no trial of the sweep sets it; it sets: {', '.join(keys) or 'nothing'}")
    if len(over) > 1:
        raise ConfigError(f"--over {key}: the sweep sets {', '.join(over)}; give one of them in full")
    groups: dict[tuple[tuple[str, str], ...], list[TrialResult]] = {}
    for result in results:
        own = _without(result.settings, over[0])
        groups.setdefault(tuple(sorted((name, same_text(value)) for name, value in own.items())), []).append(result)
    known = {same_text(result.settings.get(over[0])): result.settings.get(over[0]) for result in results}
    return [
        Setting(
            _without(trials[0].settings, over[0]),
            trials,
            [known[text] for text in known if text not in {same_text(t.settings.get(over[0])) for t in trials}],
            _without(trials[0].overrides, over[0]),
        )
        for trials in groups.values()
    ]


def group_seeds(results: list[TrialResult]) -> list[Setting]:
    """Trials that are equal but for a seed; each by itself where the sweep sets none."""
    try:
        return group_over(results, "seed")
    except ConfigError:
        return [Setting(result.settings, [result], [], result.overrides) for result in results]


def metric_names(results: list[TrialResult]) -> list[str]:
    """Every metric of any trial: the main one first, then those of evaluations, then the others."""
    names = list(dict.fromkeys(name for result in results for name in result.metrics))
    main = main_metric(names)
    return sorted(names, key=lambda name: (name != main, not is_evaluation(name)))


def shown_metrics(results: list[TrialResult]) -> list[str]:
    """What a table has room for: metrics of evaluations and the training loss; JSON and CSV have all."""
    names = metric_names(results)
    return [name for name in names if is_evaluation(name) or name == "train/loss"] or names


def results_table(results: list[TrialResult], counts: str) -> Table:
    """One line a trial: the settings that differ, then the metrics."""
    keys, metrics = varying_keys([result.settings for result in results]), shown_metrics(results)
    table = new_table(["trial", *short_names(keys), "state", *metrics], counts)
    for result in results:
        cells = [result.trial, *(format_value(result.settings.get(key, "")) for key in keys), result.state]
        cells += [format_value(result.metrics[name]) if name in result.metrics else "" for name in metrics]
        table.add_row(*map(Text, cells))
    return table


def groups_table(groups: list[Setting], counts: str) -> Table:
    """One line a group: the settings that differ, mean ± standard deviation, n, and who is missing."""
    keys = varying_keys([group.settings for group in groups])
    metrics = shown_metrics([trial for group in groups for trial in group.trials])
    table = new_table([*short_names(keys), "n", *metrics, "not counted"], counts)
    for group in groups:
        cells = [
            *(format_value(group.settings.get(key, "")) for key in keys),
            f"{len(group.done)}/{len(group.trials)}",
        ]
        cells += [_spread_words(group.spread(name)) for name in metrics]
        missing = [f"{trial.trial} {trial.state}" for trial in group.missing]
        missing += [f"no trial with {format_value(value)}" for value in group.absent]
        table.add_row(*map(Text, [*cells, ", ".join(missing)]))
    return table


def write_csv(path: Path, results: list[TrialResult], groups: list[Setting] | None = None) -> None:
    """One line a trial, or a group with mean, std and n of each metric; every setting is a column."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    metrics = metric_names(results)
    if groups is None:
        keys = _keys([result.settings for result in results])
        writer.writerow(["trial", "state", *keys, *metrics])
        for result in results:
            row = [result.settings.get(key, "") for key in keys] + [result.metrics.get(name, "") for name in metrics]
            writer.writerow([result.trial, result.state, *row])
    else:
        keys = _keys([group.settings for group in groups])
        heads = [f"{name} {part}" for name in metrics for part in ("mean", "std", "n")]
        writer.writerow([*keys, "trials", "done", *heads, "missing"])
        for group in groups:
            row = [group.settings.get(key, "") for key in keys] + [len(group.trials), len(group.done)]
            for name in metrics:
                spread = group.spread(name)
                row += (
                    ["", "", 0] if spread is None else [spread.mean, "" if spread.std is None else spread.std, spread.n]
                )
            writer.writerow([*row, " ".join(f"{trial.trial}:{trial.state}" for trial in group.missing)])
    write_file(path, buffer.getvalue().encode())


def write_file(path: Path, content: bytes) -> None:
    """Write a file the user named. Raises: ConfigError when it cannot be written."""
    try:
        with replacing(path) as file:
            file.write(content)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from None


def _last_values(row: Row) -> dict[str, float]:
    values: dict[str, float] = {}
    for logged in read_rows(row.run.metrics):
        values |= {name: value for name, value in logged.items() if "/" in name}
    return values


def _without(settings: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != key}


def _keys(settings: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for each in settings for key in each))


def _spread_words(spread: Spread | None) -> str:
    if spread is None:
        return ""
    return format_value(spread.mean) + ("" if spread.std is None else f" ± {spread.std:.2g}")
