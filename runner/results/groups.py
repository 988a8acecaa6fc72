"""Trials that are equal but for some keys, as one: mean and spread of what is done, names of what is not."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from runner.results.names import find_key
from runner.results.order import sort_by_settings, sort_values
from runner.results.statistics import Spread, measure
from runner.results.trials import TrialResult, known_keys, metric_names, setting_keys
from runner.tables import describe, keys_named, same_text, varying_keys

SEED = "train.seed"
"""The key that `seeds` of a sweep sets."""

Identity = tuple[tuple[str, str], ...]
"""A text for each setting, which equal settings share."""


@dataclass(frozen=True)
class Setting:
    """Trials of one group."""

    settings: dict[str, Any]
    trials: list[TrialResult]
    absent: list[Any] = field(default_factory=list)
    """Values of the key grouped over which other groups have and this one has not."""

    overrides: dict[str, Any] = field(default_factory=dict)
    """What the sweep set, but for that key."""

    over: str | None = None
    """The key grouped over, where it is one."""

    @property
    def known(self) -> tuple[str, ...]:
        """Every key of the sweeps' configs."""
        return known_keys(self.trials)

    @property
    def done(self) -> list[TrialResult]:
        return [trial for trial in self.trials if trial.counts]

    @property
    def missing(self) -> list[TrialResult]:
        return [trial for trial in self.trials if not trial.counts]

    @property
    def expected(self) -> int:
        """Trials it has or should have."""
        return len(self.trials) + len(self.absent)

    def values(self, metric: str) -> list[float]:
        return [trial.metrics[metric] for trial in self.done if metric in trial.metrics]

    def spread(self, metric: str) -> Spread | None:
        return measure(self.values(metric))

    def missing_words(self) -> list[str]:
        """`seed 3: bb11 failed` for each trial that is not counted, `no seed 4` for one that is not there."""
        over = [self.over] if self.over else []
        words = []
        for trial in self.missing:
            told = describe(trial.settings, over, self.known)
            why = f"{trial.trial} {trial.standing}"
            words.append(f"{told}: {why}" if told else why)
        return words + [f"no {describe({key: value}, over, self.known)}" for key in over for value in self.absent]

    def as_json(self) -> dict[str, Any]:
        spreads = {name: spread for name in metric_names(self.trials) if (spread := self.spread(name))}
        return {
            "overrides": self.overrides,
            "settings": self.settings,
            "trials": [trial.trial for trial in self.trials],
            "n": len(self.done),
            "expected": self.expected,
            "missing": [
                {"trial": trial.trial, "state": trial.state, "value": trial.settings.get(self.over or "")}
                for trial in self.missing
            ],
            "absent": self.absent,
            "metrics": {name: spread.as_json() for name, spread in spreads.items()},
        }


def group_over(results: list[TrialResult], key: str) -> list[Setting]:
    """Trials that are equal but for `key`, a full key such as train.seed or its end, ordered by their settings.

    Raises: ConfigError when no trial sets such a key.
    """
    over = find_key("--over", key, setting_keys(result.settings for result in results))
    known = sort_values(result.settings[over] for result in results if over in result.settings)

    def absent(trials: list[TrialResult]) -> list[Any]:
        if not any(over in trial.settings for trial in trials):
            # Which of the values they have is not known.
            return []
        there = {same_text(trial.settings.get(over)) for trial in trials}
        return [value for value in known if same_text(value) not in there]

    return [
        Setting(without(trials[0].settings, over), trials, absent(trials), without(trials[0].overrides, over), over)
        for trials in gather(results, lambda result: without(result.settings, over))
    ]


def group_by(results: list[TrialResult], keys: list[str]) -> list[Setting]:
    """Trials that have the same values of these keys, whatever else they differ in, ordered by these."""

    def chosen(settings: dict[str, Any]) -> dict[str, Any]:
        return {key: settings[key] for key in keys if key in settings}

    return [
        Setting(chosen(trials[0].settings), trials, [], chosen(trials[0].overrides))
        for trials in gather(results, lambda result: chosen(result.settings))
    ]


def group_seeds(results: list[TrialResult]) -> list[Setting]:
    """Trials that are equal but for the seed; each by itself where the sweep sets none.

    Of several seeds that of the training is meant, where it varies: `data.seed` chooses the samples, say.
    """
    settings = [result.settings for result in results]
    seeds = keys_named("seed", varying_keys(settings)) or keys_named("seed", setting_keys(settings))
    if SEED in seeds or len(seeds) == 1:
        return group_over(results, SEED if SEED in seeds else seeds[0])
    return [Setting(result.settings, [result], [], result.overrides) for result in results]


def gather(results: list[TrialResult], settings_of: Callable[[TrialResult], dict[str, Any]]) -> list[list[TrialResult]]:
    """The trials that have the same of these settings, groups and members ordered by their settings."""
    groups: dict[Identity, list[TrialResult]] = {}
    for result in sort_by_settings(results, lambda result: result.settings):
        groups.setdefault(identity(settings_of(result)), []).append(result)
    return sort_by_settings(groups.values(), lambda group: settings_of(group[0]))


def identity(settings: dict[str, Any]) -> Identity:
    """Equal for equal settings: 1 and 1.0 are one, true is another."""
    return tuple(sorted((name, same_text(value)) for name, value in settings.items()))


def without(settings: dict[str, Any], key: str) -> dict[str, Any]:
    """The settings but for one key."""
    return {name: value for name, value in settings.items() if name != key}
