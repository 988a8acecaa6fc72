"""The points of a sweep: what its blocks set, multiplied, without those that it excludes.

Of a search only the number of each trial is known: its parameters stand at the first of their values until the trial
starts. What the command line sets is taken out of the sweep.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

from runner.distribution import draw
from runner.experiment import OUTSIDE_IDENTITY, Experiment
from runner.explain import OptionError
from runner.schema import build_json, set_key
from runner.sweep_conditions import Condition, check_conditions, dotted_keys, matches, overlap, parse_condition
from runner.sweep_config import MAX_TRIALS, SEARCH, Block, Search, Sweep

_OF_A_SEARCH = re.compile(r"sweep(\.when\.\d+)*\.search\b")
_BEFORE_THE_DRAW = (SEARCH, "train.backend")


@dataclass(frozen=True)
class _Dimensions:
    """A block made ready: axes to take one setting from each, what set each key, and the blocks inside."""

    axes: list[list[dict[str, Any]]]
    origins: dict[str, str]
    whens: list[tuple[Condition, "_Dimensions"]]


@dataclass(frozen=True)
class Point:
    """What a sweep sets at one of its points, the whole trial as written, and the key of the file that set each."""

    overrides: dict[str, Any]
    mapping: dict[str, Any]
    origins: dict[str, str]


def points(experiment: Experiment) -> list[Point]:
    """All points of the sweep, excluded ones left out, duplicates still in."""
    if experiment.sweep is None:
        return [Point({}, experiment.base, {})]
    try:
        sweep, every = multiplied(experiment)
        excluded = [parse_condition(condition) for condition in sweep.exclude]
        points = [point for point in every if not any(matches(condition, point.mapping) for condition in excluded)]
        if not points:
            raise OptionError("sweep.exclude", "leaves no trial")
    except OptionError as error:
        raise experiment.document.locate(error) from None
    return points


def multiplied(experiment: Experiment) -> tuple[Sweep, list[Point]]:
    """The sweep of an experiment, and all its points."""
    # Not the canonical text: a value that the sweep sets keeps its spelling, 1.0 stays 1.0.
    sweep = build_json(Sweep, json.dumps(experiment.sweep), "sweep")
    pinned = {key: text for key, text in experiment.document.overrides.items() if not key.startswith("sweep")}
    dimensions = _prepare(sweep, "sweep", pinned)
    origins = dict(_all_origins(dimensions))
    searched = {key for key, origin in origins.items() if _OF_A_SEARCH.match(origin)}
    check_conditions(sweep, "sweep", {*dotted_keys(experiment.base), *origins}, searched)
    return sweep, _multiply(dimensions, Point({}, experiment.base, {}))


def _multiply(dimensions: _Dimensions, start: Point) -> list[Point]:
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
        point = Point(overrides, mapping, origins)
        inner = [point]
        for condition, block in dimensions.whens:
            # Conditions see the point as it was before its `when` blocks, so their order does not matter.
            if matches(condition, mapping):
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
        (parse_condition(when.condition), _prepare(when, f"{at}.when.{index}", pinned))
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
        if any(overlap(key, fixed) for fixed in _BEFORE_THE_DRAW):
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
            if overlap(key, other):
                raise OptionError(origin, f"{key} is set twice, also as {other} by {outer[other]}")
    return {**outer, **inner}


def _check_settings(axis: list[dict[str, Any]], origins: dict[str, str]) -> None:
    """Raise OptionError if one setting has both a key and its group."""
    for keys in {tuple(setting) for setting in axis}:
        for key, other in combinations(keys, 2):
            if overlap(key, other):
                raise OptionError(origins[key], f"{key} is set twice, also as {other} by {origins[other]}")


def _all_origins(dimensions: _Dimensions) -> Iterator[tuple[str, str]]:
    yield from dimensions.origins.items()
    for _, block in dimensions.whens:
        yield from _all_origins(block)
