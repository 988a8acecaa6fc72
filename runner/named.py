"""A name is a file: `method: {name: scl}` is runner/methods/scl.py. The only door from configs to plug-ins.

A plug-in is a module with a `Config` (its options) and a `build`; adding one is adding a file. A method whose
loss takes no negatives from the batch says so with `IN_BATCH_NEGATIVES = False`.
"""

import importlib
import importlib.util
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

from runner.config import EvaluateConfig, Selection, Trial, check_negatives, check_warmup
from runner.explain import OptionError, did_you_mean
from runner.schema import Document, Options, build
from runner.strict_yaml import show
from runner.sweep import Variant

FAMILIES = {
    "methods": "method.name",
    "encoders": "encoder.name",
    "data": "data.name",
    "schedules": "schedule.name",
    "evaluation": "evaluate.probes",
}
"""Folder of plug-ins -> the key of an experiment file that names one."""


@dataclass(frozen=True)
class ResolvedTrial:
    """What the plug-ins of a trial were told: each its own Config."""

    method: Options
    encoder: Options
    data: Options
    schedule: Options
    probes: dict[str, Options]
    """By name, in the order of `evaluate.probes`."""


def names(family: str) -> list[str]:
    """The plug-ins of a family, sorted; nothing is imported."""
    spec = importlib.util.find_spec(f"runner.{family}")
    assert spec is not None, family
    return sorted(m.name for m in pkgutil.iter_modules(spec.submodule_search_locations) if m.name[0] != "_")


@cache
def load(family: str, name: str) -> ModuleType:
    """The module of a plug-in; raises ConfigError for a name that the family does not have."""
    if name not in (there := names(family)):
        raise OptionError(FAMILIES[family], f"{show(name)} is not allowed; {did_you_mean(name, there)}")
    return importlib.import_module(f"runner.{family}.{name}")


def resolve(family: str, selection: Selection) -> Options:
    """The Config of the selected plug-in; raises ConfigError that names the dotted key at fault."""
    config: type[Options] = load(family, selection.name).Config
    return build(config, selection.options, FAMILIES[family].removesuffix(".name"))


def resolve_trial(trial: Trial) -> ResolvedTrial:
    """The Configs of all plug-ins of a trial; raises ConfigError for what they, or they together, refuse."""
    return _resolve(trial, {})


def resolve_trials(pairs: Sequence[tuple[Variant, Trial]], document: Document) -> list[ResolvedTrial]:
    """`resolve_trial` for all trials of a sweep: each selection once, errors with file and line."""
    seen: dict[tuple[str, int], Any] = {}
    resolved = []
    for variant, trial in pairs:
        try:
            resolved.append(_resolve(trial, seen))
        except OptionError as error:
            raise document.locate(error, variant.origins) from None
    return resolved


def _resolve(trial: Trial, seen: dict[tuple[str, int], Any]) -> ResolvedTrial:
    """`seen` has what is resolved by family and identity of the group; trials of a sweep share groups."""
    groups: list[Selection | EvaluateConfig]
    groups = [trial.method, trial.encoder, trial.data, trial.schedule, trial.evaluate]
    resolved = []
    for family, group in zip(FAMILIES, groups, strict=True):
        if (family, id(group)) not in seen:
            seen[family, id(group)] = resolve(family, group) if isinstance(group, Selection) else _resolve_probes(group)
        resolved.append(seen[family, id(group)])
    options = ResolvedTrial(*resolved)
    if getattr(load("methods", trial.method.name), "IN_BATCH_NEGATIVES", True):
        check_negatives(trial)
    if trial.train.steps is not None:
        check_warmup(getattr(options.schedule, "warmup_steps", 0), trial.train.steps)
    return options


def _resolve_probes(evaluate: EvaluateConfig) -> dict[str, Options]:
    return {name: load("evaluation", name).Config() for name in evaluate.probes}
