"""From one experiment to its trials: a pure function of the file, without torch.

The language is that of runner.sweep_config. Neither the order of keys nor that of values changes the id of any trial;
one of a search is called by its number and what is searched.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from json.encoder import encode_basestring_ascii
from typing import Any

from runner.config import Trial
from runner.experiment import OUTSIDE_IDENTITY, Experiment, validate_groups
from runner.explain import OptionError
from runner.schema import Document, canonical, set_key
from runner.sweep_conditions import matches, parse_condition
from runner.sweep_config import SEARCH
from runner.sweep_points import Point, multiplied, points


@dataclass(frozen=True)
class Variant:
    """One point of a sweep."""

    overrides: dict[str, Any]
    """Dotted keys that the sweep set; of a search, the number."""

    mapping: dict[str, Any]
    """The whole trial as written; unchanged groups are shared between variants, so never modify it."""

    trial_id: str
    origins: dict[str, str]
    """Dotted key -> the key of the file that set it, for `Document.locate`."""


def expand(experiment: Experiment) -> list[Variant]:
    """All variants of an experiment, each once, in the order of the file; one variant if there is no sweep.

    Raises ConfigError, in one line.
    """
    return [variant for variant, _ in _variants(experiment)]


def trials(experiment: Experiment) -> list[tuple[Variant, Trial]]:
    """All variants with their validated trials; plug-in options are checked by runner.named.

    Raises ConfigError, in one line that names the line of the sweep at fault.
    """
    seen: dict[tuple[str, str], Any] = {}
    pairs = []
    for variant, groups in _variants(experiment):
        try:
            pairs.append((variant, validate_groups(groups, seen)))
        except OptionError as error:
            raise experiment.document.locate(error, variant.origins) from None
    return pairs


def extremes(pairs: list[tuple[Variant, Trial]], document: Document) -> list[tuple[Variant, Trial]]:
    """Of each search, trials with one parameter at each of its ends: what they may not have is found at submission.

    Raises ConfigError, in one line that names the line of the sweep at fault.
    """
    first = {trial.search.study: (variant, trial) for variant, trial in reversed(pairs) if trial.search is not None}
    seen: dict[tuple[str, str], Any] = {}
    found = []
    for variant, trial in first.values():
        assert trial.search is not None
        groups = {key: canonical(value) for key, value in variant.mapping.items()}
        for key, distribution in trial.search.parameters.items():
            for value in distribution.ends:
                mapping, group = set_key(variant.mapping, key, value), key.partition(".")[0]
                try:
                    found.append((variant, validate_groups({**groups, group: canonical(mapping[group])}, seen)))
                except OptionError as error:
                    raise document.locate(error, variant.origins) from None
    return found


def advice(experiment: Experiment) -> list[str]:
    """A line for each `when` and `exclude` that matches no trial: allowed, but rarely meant."""
    if experiment.sweep is None or not {"when", "exclude"} & experiment.sweep.keys():
        return []
    sweep, every = multiplied(experiment)
    places = {f"sweep.when.{index}.if": when.condition for index, when in enumerate(sweep.when)}
    places |= {f"sweep.exclude.{index}": condition for index, condition in enumerate(sweep.exclude)}
    used = {".".join(origin.split(".")[:3]) for point in every for origin in point.origins.values()}
    idle = [
        place
        for place, written in places.items()
        # What a `when` adds may change what it asked for.
        if place.removesuffix(".if") not in used
        and not any(matches(condition, point.mapping) for condition in [parse_condition(written)] for point in every)
    ]
    return [str(experiment.document.locate(OptionError(place, "matches no trial"))) for place in idle]


def trial_id(mapping: dict[str, Any]) -> str:
    """Ten hex digits of the SHA-256 of what a trial computes, as written: its canonical JSON."""
    return _hash_groups({key: canonical(value) for key, value in mapping.items()})


def _hash_groups(groups: dict[str, str]) -> str:
    """`trial_id` from the canonical JSON of each top-level key."""
    inside = [f"{encode_basestring_ascii(key)}:{groups[key]}" for key in sorted(groups) if key not in OUTSIDE_IDENTITY]
    return sha256(f"{{{','.join(inside)}}}".encode()).hexdigest()[:10]


def _variants(experiment: Experiment) -> Iterator[tuple[Variant, dict[str, str]]]:
    """Every variant once, with the canonical JSON of each of its top-level keys."""
    base = {key: canonical(value) for key, value in experiment.base.items()}
    texts: dict[str, str] = {}
    found = set()
    for point in points(experiment):
        groups = dict(base)
        for group, setting in _settings_by_group(point.overrides).items():
            if setting not in texts:
                texts[setting] = canonical(point.mapping[group])
            groups[group] = texts[setting]
        if SEARCH in point.overrides:
            point = _name_study(point, groups)
            groups[SEARCH] = canonical(point.mapping[SEARCH])
        name = _hash_groups(groups)
        if name not in found:
            found.add(name)
            yield Variant(point.overrides, point.mapping, name, point.origins), groups


def _name_study(point: Point, groups: dict[str, str]) -> Point:
    """A trial of a search with the hash of all that its trials share; what is to be drawn, the sweep has not set."""
    options = point.mapping[SEARCH]
    study = _hash_groups({**groups, SEARCH: canonical({**options, "number": None})})
    overrides = {key: value for key, value in point.overrides.items() if key not in options["parameters"]}
    del overrides[SEARCH]
    mapping = {**point.mapping, SEARCH: {**options, "study": study}}
    return Point({**overrides, f"{SEARCH}.number": options["number"]}, mapping, point.origins)


def _settings_by_group(overrides: dict[str, Any]) -> dict[str, str]:
    """Top-level key -> what is set in it, as a text: the same text, the same group of the base with it."""
    settings: dict[str, str] = {}
    for key, value in overrides.items():
        group = key.partition(".")[0]
        settings[group] = f"{settings.get(group, '')}{key}={value!r} "
    return settings
