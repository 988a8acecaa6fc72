"""From one experiment to its trials: a pure function of the file, without torch.

The language is that of runner.sweep_config. Of a search only the number of each trial is known here: its parameters
stand at the first of their values until the trial starts, and it is called by its number and what is searched. What
the command line sets is taken out of the sweep. Neither the order of keys nor that of values changes the id of any
trial.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import combinations, product
from json.encoder import encode_basestring_ascii
from typing import Any

from runner.config import Trial
from runner.distribution import draw
from runner.experiment import OUTSIDE_IDENTITY, Experiment, validate_groups
from runner.explain import OptionError, did_you_mean
from runner.schema import Document, build_json, canonical, get_key, set_key
from runner.sweep_config import MAX_TRIALS, Block, Search, Sweep


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
    sweep, points = _multiplied(experiment)
    places = {f"sweep.when.{index}.if": when.condition for index, when in enumerate(sweep.when)}
    places |= {f"sweep.exclude.{index}": condition for index, condition in enumerate(sweep.exclude)}
    used = {".".join(origin.split(".")[:3]) for point in points for origin in point.origins.values()}
    idle = [
        place
        for place, written in places.items()
        # What a `when` adds may change what it asked for.
        if place.removesuffix(".if") not in used
        and not any(_matches(condition, point.mapping) for condition in [_condition(written)] for point in points)
    ]
    return [str(experiment.document.locate(OptionError(place, "matches no trial"))) for place in idle]


def trial_id(mapping: dict[str, Any]) -> str:
    """Ten hex digits of the SHA-256 of what a trial computes, as written: its canonical JSON."""
    return _hash_groups({key: canonical(value) for key, value in mapping.items()})


def _hash_groups(groups: dict[str, str]) -> str:
    """`trial_id` from the canonical JSON of each top-level key."""
    inside = [f"{encode_basestring_ascii(key)}:{groups[key]}" for key in sorted(groups) if key not in OUTSIDE_IDENTITY]
    return sha256(f"{{{','.join(inside)}}}".encode()).hexdigest()[:10]


SEARCH = "search"
"""The group of a config that says of which search it is."""

_OF_A_SEARCH = re.compile(r"sweep(\.when\.\d+)*\.search\b")
_BEFORE_THE_DRAW = (SEARCH, "train.backend")

Condition = dict[str, set[str]]
"""Dotted key -> canonical JSON of the values that match."""


@dataclass(frozen=True)
class _Dimensions:
    """A block made ready: axes to take one setting from each, what set each key, and the blocks inside."""

    axes: list[list[dict[str, Any]]]
    origins: dict[str, str]
    whens: list[tuple[Condition, "_Dimensions"]]


@dataclass(frozen=True)
class _Point:
    overrides: dict[str, Any]
    mapping: dict[str, Any]
    origins: dict[str, str]


def _variants(experiment: Experiment) -> Iterator[tuple[Variant, dict[str, str]]]:
    """Every variant once, with the canonical JSON of each of its top-level keys."""
    base = {key: canonical(value) for key, value in experiment.base.items()}
    texts: dict[str, str] = {}
    found = set()
    for point in _points(experiment):
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


def _name_study(point: _Point, groups: dict[str, str]) -> _Point:
    """A trial of a search with the hash of all that its trials share; what is to be drawn, the sweep has not set."""
    options = point.mapping[SEARCH]
    study = _hash_groups({**groups, SEARCH: canonical({**options, "number": None})})
    overrides = {key: value for key, value in point.overrides.items() if key not in options["parameters"]}
    del overrides[SEARCH]
    mapping = {**point.mapping, SEARCH: {**options, "study": study}}
    return _Point({**overrides, f"{SEARCH}.number": options["number"]}, mapping, point.origins)


def _settings_by_group(overrides: dict[str, Any]) -> dict[str, str]:
    """Top-level key -> what is set in it, as a text: the same text, the same group of the base with it."""
    settings: dict[str, str] = {}
    for key, value in overrides.items():
        group = key.partition(".")[0]
        settings[group] = f"{settings.get(group, '')}{key}={value!r} "
    return settings


def _points(experiment: Experiment) -> list[_Point]:
    """All points of the sweep, excluded ones left out, duplicates still in."""
    if experiment.sweep is None:
        return [_Point({}, experiment.base, {})]
    try:
        sweep, every = _multiplied(experiment)
        excluded = [_condition(condition) for condition in sweep.exclude]
        points = [point for point in every if not any(_matches(condition, point.mapping) for condition in excluded)]
        if not points:
            raise OptionError("sweep.exclude", "leaves no trial")
    except OptionError as error:
        raise experiment.document.locate(error) from None
    return points


def _multiplied(experiment: Experiment) -> tuple[Sweep, list[_Point]]:
    """The sweep of an experiment, and all its points."""
    # Not the canonical text: a value that the sweep sets keeps its spelling, 1.0 stays 1.0.
    sweep = build_json(Sweep, json.dumps(experiment.sweep), "sweep")
    pinned = {key: text for key, text in experiment.document.overrides.items() if not key.startswith("sweep")}
    dimensions = _prepare(sweep, "sweep", pinned)
    origins = dict(_all_origins(dimensions))
    searched = {key for key, origin in origins.items() if _OF_A_SEARCH.match(origin)}
    _check_conditions(sweep, "sweep", {*_dotted_keys(experiment.base), *origins}, searched)
    return sweep, _multiply(dimensions, _Point({}, experiment.base, {}))


def _multiply(dimensions: _Dimensions, start: _Point) -> list[_Point]:
    """Every combination of the axes applied to a point, and the blocks inside to those that match."""
    origins = _join_origins(start.origins, dimensions.origins)
    size = math.prod(len(axis) for axis in dimensions.axes)
    if size > MAX_TRIALS:
        raise OptionError("sweep", f"makes {size} trials; at most {MAX_TRIALS} are allowed")
    points = []
    for settings in product(*dimensions.axes):
        overrides, mapping = dict(start.overrides), start.mapping
        for setting in settings:
            overrides.update(setting)
            for key, value in setting.items():
                mapping = set_key(mapping, key, value)
        point = _Point(overrides, mapping, origins)
        inner = [point]
        for condition, block in dimensions.whens:
            # Conditions see the point as it was before its `when` blocks, so their order does not matter.
            if _matches(condition, mapping):
                inner = [deeper for point in inner for deeper in _multiply(block, point)]
        points += inner
        if len(points) > MAX_TRIALS:
            raise OptionError("sweep", f"makes more than {MAX_TRIALS} trials")
    return points


def _prepare(block: Block, at: str, pinned: dict[str, str]) -> _Dimensions:
    axes: list[list[dict[str, Any]]] = []
    origins: dict[str, str] = {}
    for axis, names in _axes(block, at, pinned):
        free = {key: origin for key, origin in names.items() if not _is_pinned(key, origin, pinned)}
        for key, origin in free.items():
            if (group := key.partition(".")[0]) in OUTSIDE_IDENTITY:
                problem = f"{group} is no part of a trial's id, so it cannot be swept; write one experiment each"
                raise OptionError(origin, problem)
        _check_settings(axis, names)
        if free:
            axes.append([{key: setting[key] for key in setting if key in free} for setting in axis])
            origins = _join_origins(origins, free)
    whens = [
        (_condition(when.condition), _prepare(when, f"{at}.when.{index}", pinned))
        for index, when in enumerate(block.when)
    ]
    return _Dimensions(axes, origins, whens)


def _axes(block: Block, at: str, pinned: dict[str, str]) -> Iterator[tuple[list[dict[str, Any]], dict[str, str]]]:
    """Each dimension of a block as its settings, with the key of the file that sets each dotted key."""
    for key, values in block.grid.items():
        yield [{key: value} for value in values], {key: f"{at}.grid.{key}"}
    if block.zip:
        lengths = {key: len(values) for key, values in block.zip.items()}
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{key} has {length}" for key, length in lengths.items())
            raise OptionError(f"{at}.zip", f"lists must have one length; {told}")
        rows = zip(*block.zip.values(), strict=True)
        yield (
            [dict(zip(block.zip, row, strict=True)) for row in rows],
            {k: f"{at}.zip.{k}" for k in block.zip},
        )
    if block.cases:
        keys = [(key, index) for index, case in enumerate(block.cases) for key in case]
        yield block.cases, {key: f"{at}.list.{index}.{key}" for key, index in reversed(keys)}
    if block.random is not None:
        chosen = block.random
        yield (
            [
                {key: draw(distribution, chosen.seed, key, index) for key, distribution in chosen.parameters.items()}
                for index in range(chosen.samples)
            ],
            {key: f"{at}.random.parameters.{key}" for key in chosen.parameters},
        )
    if block.search is not None:
        yield _search_axis(block.search, f"{at}.{SEARCH}", pinned)
    if block.seeds:
        yield [{"train.seed": seed} for seed in block.seeds], {"train.seed": f"{at}.seeds"}


def _search_axis(search: Search, at: str, pinned: dict[str, str]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The trials of a search by number, their parameters at the first value; the command line may set some of these."""
    names = {key: f"{at}.parameters.{key}" for key in search.parameters}
    for key, origin in names.items():
        if any(_overlap(key, fixed) for fixed in _BEFORE_THE_DRAW):
            raise OptionError(origin, f"{key} is used before a trial's parameters are drawn, so it cannot be searched")
    parameters = {k: each for k, each in search.parameters.items() if not _is_pinned(k, names[k], pinned)}
    if not parameters:
        raise OptionError(f"{at}.parameters", "the command line sets all of them; leave sweep.search out")
    # As written: a default that is spelled out, or a new option, gives no other trial.
    options = search.model_dump(mode="json", exclude_unset=True, exclude={"trials"})
    options["parameters"] = {key: options["parameters"][key] for key in parameters}
    first = {key: distribution.ends[0] for key, distribution in parameters.items()}
    return [{**first, SEARCH: {**options, "number": n}} for n in range(search.trials)], {SEARCH: at, **names}


def _is_pinned(key: str, origin: str, pinned: dict[str, str]) -> bool:
    for pin, text in pinned.items():
        if pin.startswith(f"{key}."):
            raise OptionError(origin, f"sets {key} as a whole, which the override {text} would change; drop one")
        if key == pin or key.startswith(f"{pin}."):
            return True
    return False


def _join_origins(outer: dict[str, str], inner: dict[str, str]) -> dict[str, str]:
    """Both together; raises OptionError if one sets what the other sets."""
    for key, origin in inner.items():
        for other in outer:
            if _overlap(key, other):
                raise OptionError(origin, f"{key} is set twice, also as {other} by {outer[other]}")
    return {**outer, **inner}


def _check_settings(axis: list[dict[str, Any]], origins: dict[str, str]) -> None:
    """Raise OptionError if one setting has both a key and its group."""
    for keys in {tuple(setting) for setting in axis}:
        for key, other in combinations(keys, 2):
            if _overlap(key, other):
                raise OptionError(origins[key], f"{key} is set twice, also as {other} by {origins[other]}")


def _overlap(key: str, other: str) -> bool:
    """Whether two dotted keys are the same, or one is in the other."""
    return f"{key}.".startswith(f"{other}.") or other.startswith(f"{key}.")


def _condition(written: dict[str, Any]) -> Condition:
    return {
        key: {canonical(item) for item in (value if isinstance(value, list) else [value])}
        for key, value in written.items()
    }


_ABSENT = object()


def _matches(condition: Condition, mapping: dict[str, Any]) -> bool:
    for key, values in condition.items():
        value = get_key(mapping, key, _ABSENT)
        if value is _ABSENT or canonical(value) not in values:
            return False
    return True


def _check_conditions(block: Block, at: str, settable: set[str], searched: set[str]) -> None:
    """A condition on a key that no trial writes can never match: a typo, or a default not written out.

    What is searched is not known before a trial starts.
    """
    conditions = [(f"{at}.when.{index}.if", when.condition) for index, when in enumerate(block.when)]
    if isinstance(block, Sweep):
        conditions += [(f"{at}.exclude.{index}", condition) for index, condition in enumerate(block.exclude)]
    for place, condition in conditions:
        for key in condition:
            if not any(_overlap(key, other) for other in settable):
                problem = f"no trial writes this key; {did_you_mean(key, settable)}"
                raise OptionError(f"{place}.{key}", problem)
            if any(_overlap(key, other) for other in searched):
                raise OptionError(f"{place}.{key}", "is searched, so nobody knows it before the trial starts")
    for index, when in enumerate(block.when):
        _check_conditions(when, f"{at}.when.{index}", settable, searched)


def _dotted_keys(mapping: dict[str, Any], at: str = "") -> Iterator[str]:
    for key, value in mapping.items():
        if isinstance(value, dict) and value:
            yield from _dotted_keys(value, f"{at}{key}.")
        else:
            yield f"{at}{key}"


def _all_origins(dimensions: _Dimensions) -> Iterator[tuple[str, str]]:
    yield from dimensions.origins.items()
    for _, block in dimensions.whens:
        yield from _all_origins(block)
