"""Two settings of one key, compared over the pairs of trials that are equal but for it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from runner.errors import ConfigError
from runner.results.groups import gather, without
from runner.results.statistics import Paired, Spread, measure, measure_pairs
from runner.results.trials import TrialResult, known_keys, metric_names
from runner.strict_yaml import flow, parse_yaml
from runner.tables import describe, same_text, short_names, varying_keys


@dataclass(frozen=True)
class Pairs:
    """Trials with the first value of a key beside those with the second, equal in all other settings."""

    key: str
    values: list[Any]
    settings: dict[str, Any]
    """Which all of them share."""

    pairs: list[tuple[TrialResult, TrialResult]]
    unpaired: list[str]
    """In words: which trial, and why it has no partner."""

    known: tuple[str, ...] = ()
    """Every key of the sweeps' configs."""

    def means(self, metric: str) -> tuple[Spread | None, Spread | None]:
        """Of the first and of the second trials, pairs only."""
        first, second = ([pair[side].metrics[metric] for pair in self._with(metric)] for side in (0, 1))
        return measure(first), measure(second)

    def compare(self, metric: str) -> Paired | None:
        """How much higher the second trials are."""
        return measure_pairs([second.metrics[metric] - first.metrics[metric] for first, second in self._with(metric)])

    def _with(self, metric: str) -> list[tuple[TrialResult, TrialResult]]:
        return [pair for pair in self.pairs if all(metric in trial.metrics for trial in pair)]

    def as_json(self) -> dict[str, Any]:
        names = metric_names([trial for pair in self.pairs for trial in pair])
        compared = {name: paired for name in names if (paired := self.compare(name))}
        return {
            "key": self.key,
            "values": self.values,
            "settings": self.settings,
            "pairs": [[first.trial, second.trial] for first, second in self.pairs],
            "unpaired": self.unpaired,
            "metrics": {name: paired.as_json() for name, paired in compared.items()},
        }


def parse_comparison(text: str) -> tuple[str, list[Any]]:
    """`KEY=A,B` with values as in YAML. Raises: ConfigError."""
    key, sign, words = text.partition("=")
    values = parse_yaml(f"[{words}]", f"--compare {text}", numbered=False)[0] if sign and key else []
    if not isinstance(values, list) or len(values) != 2 or same_text(values[0]) == same_text(values[1]):
        raise ConfigError(f"--compare {text}: should be KEY=A,B with two values, the one to compare with first")
    return key, values


def pair_up(results: list[TrialResult], key: str, values: list[Any], over: str | None = None) -> list[Pairs]:
    """The pairs of all trials, or of each setting that is left when `over` is grouped over.

    Only trials that have the key count, and are done. Raises: ConfigError when no trial has one of the values.
    """
    known = {same_text(result.settings[key]): result.settings[key] for result in results if key in result.settings}
    for value in values:
        if same_text(value) not in known:
            there = ", ".join(map(flow, known.values()))
            raise ConfigError(f"--compare {key}: no trial has {flow(value)}; there is {there}")
    wanted = {same_text(value) for value in values}
    results = [result for result in results if key in result.settings and same_text(result.settings[key]) in wanted]

    own = {key, *_own_options(results, key)}

    def shared(result: TrialResult) -> dict[str, Any]:
        return {name: value for name, value in result.settings.items() if name not in own}

    def rest(result: TrialResult) -> dict[str, Any]:
        return without(shared(result), over) if over else {}

    return [_pair(trials, key, values, rest(trials[0]), shared) for trials in gather(results, rest)]


def _own_options(results: list[TrialResult], key: str) -> set[str]:
    """Of two plug-ins, as `method.name` tells them apart, the options that only one of them has."""
    group, _, last = key.rpartition(".")
    if last != "name":
        return set()
    sides: dict[str, set[str]] = {}
    for result in results:
        options = {name for name in result.settings if name.startswith(f"{group}.")}
        sides.setdefault(same_text(result.settings[key]), set()).update(options)
    first, second = sides.values()
    return first ^ second


def _pair(
    results: list[TrialResult],
    key: str,
    values: list[Any],
    settings: dict[str, Any],
    shared: Callable[[TrialResult], dict[str, Any]],
) -> Pairs:
    pairs, unpaired, known = [], [], known_keys(results)
    varying = varying_keys([shared(result) for result in results])
    for partners in gather(results, shared):
        sides = [[each for each in partners if same_text(each.settings[key]) == same_text(value)] for value in values]
        if all(len(side) == 1 and side[0].counts for side in sides):
            pairs.append((sides[0][0], sides[1][0]))
        else:
            told = describe(partners[0].settings, varying, known)
            why = _why_unpaired(key, values, sides, known)
            unpaired.append(f"{told}: {why}" if told else why)
    return Pairs(key, values, settings, pairs, unpaired, known)


def _why_unpaired(key: str, values: list[Any], sides: list[list[TrialResult]], known: tuple[str, ...]) -> str:
    told = [describe({key: value}, [key], known) for value in values]
    words = [f"no {name}" for name, side in zip(told, sides, strict=True) if not side]
    words += [f"{trial.trial} {trial.standing}" for side in sides for trial in side if not trial.counts]
    words += [_why_several(name, side, known) for name, side in zip(told, sides, strict=True) if len(side) > 1]
    return ", ".join(words)


def _why_several(name: str, side: list[TrialResult], known: tuple[str, ...]) -> str:
    """Options of one method alone set no pair apart, and may have been swept."""
    if differ := varying_keys([trial.settings for trial in side]):
        return f"{len(side)} of {name} differ in {', '.join(short_names(differ, known))}: choose one by --where"
    return f"{len(side)} trials alike"
