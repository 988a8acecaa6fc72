"""A name is a file: `method: {name: scl}` is runner/methods/scl.py. The only door from configs to plug-ins.

A plug-in is a module with a `Config` (its options) and a `build`; adding one is adding a file, here or in a package of
its own (runner/plugins.py). What else it may say:

KIND                "records" where it gives or takes them; images otherwise, and of an evaluation either unless it says
IN_BATCH_NEGATIVES  False for a method whose loss takes no negatives from the batch
has_batch_norm      of a method's Config, where its head does: then a pass takes two samples, whatever the loss takes
GLOBAL_VIEWS        (fewest, most or None) global views that a method looks at
LOCAL_VIEWS         False for a method that does not look at local views
TOKENIZES           True for a data set with a choice of tokenizers: its `build` takes the one of the model, too
SPLITS              of a data set, where it has a validation part of its own
LABELS              of a data set, "one", "several" or "none" a sample, where all its splits have so many
TEXTS               of a data set of records, the names of its texts
outputs             of a method's Config, the names that its `embed` gives; what is not said is found out later
check               of an evaluation or a method, a function: refuses what cannot work before anything is trained
build_probe         of a data set, a function: what probes are fitted on where that is not the training part
most_samples        of a data set, a function of its Config: how many samples there are to train on at most, None
                    where that is not known before they are read; else its option `limit`
sources             of a data set, a function: the files and folders that must be there before it is built
describe            of a data set of records, a function of them and a place: a sample in a few words
FITS                False for an evaluation that does not look at the training samples
open_sink           of a mirror, instead of `build`; see runner.sink
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from runner import plugins
from runner.config import EvaluateConfig, Selection, TrackingConfig, Trial
from runner.experiment import check_batch_statistics, check_negatives, check_warmup
from runner.explain import OptionError, counted, did_you_mean
from runner.facts import Facts
from runner.schema import Document, Options, build
from runner.strict_yaml import show
from runner.sweep import Variant
from runner.views_config import ViewsConfig

FAMILIES = {
    "methods": "method.name",
    "encoders": "encoder.name",
    "data": "data.name",
    "schedules": "schedule.name",
    "evaluation": "evaluate.probes",
    "mirrors": "tracking",
}
"""Folder of plug-ins -> the key of an experiment file that names one."""

assert tuple(FAMILIES) == plugins.FAMILIES


@dataclass(frozen=True)
class ResolvedTrial:
    """What the plug-ins of a trial were told: each its own Config."""

    method: Options
    encoder: Options
    data: Options
    schedule: Options
    probes: dict[str, Options]
    """By name, in the order of `evaluate.probes`."""

    more_data: dict[str, Options]
    """By the names of `evaluate.data`."""

    mirrors: dict[str, Options]


def names(family: str) -> list[str]:
    """The plug-ins of a family, sorted; nothing is imported."""
    return list(plugins.find(family))


def find(family: str, name: str) -> plugins.PlugIn:
    """The plug-in of a name; raises ConfigError for a name that the family does not have, or has twice."""
    there = plugins.find(family)
    if name not in there:
        raise OptionError(FAMILIES[family], f"{show(name)} is not allowed; {did_you_mean(name, there)}")
    found, *others = there[name]
    if others:
        problem = f"{show(name)} is not allowed; it is of both {found} and {others[0]}: rename or uninstall one"
        raise OptionError(FAMILIES[family], problem)
    return found


@cache
def load(family: str, name: str) -> ModuleType:
    """The module of a plug-in; raises ConfigError as `find` does, and for a package's that is none."""
    found = find(family, name)
    problem = f"{show(name)} is not allowed; {found.module} of {found}"
    try:
        module = importlib.import_module(found.module)
    except ImportError as error:
        if found.package == plugins.OURS:
            raise
        raise OptionError(FAMILIES[family], f"{problem} cannot be imported: {error}") from error
    parts = ("Config", {"evaluation": "run", "mirrors": "open_sink"}.get(family, "build"))
    if lacking := [part for part in parts if not hasattr(module, part)]:
        raise OptionError(FAMILIES[family], f"{problem} has no {' and no '.join(lacking)}")
    return module


def foreign_packages(trial: Trial) -> str:
    """`my-lab 0.1 (3fa9c2d1e0aa)` for each other package whose plug-ins a trial uses; the digest is of its source."""
    used = [find(family, name) for family, name in plug_in_names(trial)]
    said = {f"{one} ({plugins.digest_of(one)})" for one in used if one.package != plugins.OURS}
    return ", ".join(sorted(said))


def plug_in_names(trial: Trial) -> tuple[tuple[str, str], ...]:
    """(family, name) of each plug-in that a trial uses."""
    groups = {"methods": [trial.method], "encoders": [trial.encoder], "schedules": [trial.schedule]}
    groups |= {"data": [trial.data, *trial.evaluate.data.values()], "evaluation": list(trial.evaluate.probes)}
    return tuple((family, selection.name) for family, chosen in groups.items() for selection in chosen)


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
            check_mirrors(trial.tracking)
        except OptionError as error:
            raise document.locate(error, variant.origins) from None
    return resolved


def _resolve(trial: Trial, seen: dict[tuple[str, int], Any]) -> ResolvedTrial:
    """`seen` has what is resolved by family and identity of the group; trials of a sweep share groups."""
    groups: list[Selection | EvaluateConfig | TrackingConfig]
    groups = [trial.method, trial.encoder, trial.data, trial.schedule, trial.evaluate, trial.tracking]
    resolved: list[Any] = []
    for family, group in zip(FAMILIES, groups, strict=True):
        if (family, id(group)) not in seen:
            seen[family, id(group)] = _resolve_group(family, group)
        resolved.append(seen[family, id(group)])
    method, encoder, data, schedule, (probes, more_data), mirrors = resolved
    _check_more_encoders(trial, method)
    options = ResolvedTrial(method, encoder, data, schedule, probes, more_data, mirrors)
    _check_kinds(trial)
    _check_views(trial)
    _check_batch(trial, data)
    _check_probes(trial, options)
    if hasattr(module := load("methods", trial.method.name), "check"):
        module.check(method, trial.train)
    if getattr(module, "IN_BATCH_NEGATIVES", True):
        check_negatives(trial)
    elif getattr(method, "has_batch_norm", False):
        check_batch_statistics(trial)
    if trial.train.steps:
        check_warmup(getattr(options.schedule, "warmup_steps", 0), trial.train.steps)
    return options


def _resolve_group(family: str, group: Selection | EvaluateConfig | TrackingConfig) -> Any:
    if isinstance(group, Selection):
        return resolve(family, group)
    return _resolve_probes(group) if isinstance(group, EvaluateConfig) else resolve_mirrors(group)


def resolve_mirrors(tracking: TrackingConfig) -> dict[str, Options]:
    """The Config of each mirror of the metrics; raises ConfigError that names the dotted key at fault."""
    mirrors = {}
    for name, options in tracking.mirrors.items():
        if name not in (there := names("mirrors")):
            raise OptionError(f"tracking.{name}", f"unknown key; {did_you_mean(name, ['every_steps', *there])}")
        config: type[Options] = load("mirrors", name).Config
        mirrors[name] = build(config, options, f"tracking.{name}")
    return mirrors


def check_mirrors(tracking: TrackingConfig) -> None:
    """Raise OptionError for a mirror that is not installed here; on the machine that trains it would stop nothing."""
    for name in tracking.mirrors:
        if hasattr(module := load("mirrors", name), "check"):
            module.check()


def _check_batch(trial: Trial, data: Options) -> None:
    """Raise OptionError for batches that the training data can never fill, as far as their options say how many."""
    most = getattr(load("data", trial.data.name), "most_samples", _limit)(data)
    size = trial.train.batch_size // trial.train.accumulate
    if most is not None and size > most:
        parts = f"{trial.train.accumulate} parts of {size}" if trial.train.accumulate > 1 else "one part"
        problem = f"is not allowed; in {parts} it is more than the {counted(most, 'sample')} that data leaves"
        raise OptionError("train.batch_size", f"{trial.train.batch_size} {problem}: no step fits into an epoch")


def _limit(config: Options) -> int | None:
    return getattr(config, "limit", None)


def _check_more_encoders(trial: Trial, method: Options) -> None:
    """Raise OptionError for an option of the method that selects an encoder, if there is none such for the data."""
    for option, value in method:
        if isinstance(value, Selection):
            key, given = f"method.{option}", kind_of("data", trial.data.name)
            fitting = [name for name in names("encoders") if kind_of("encoders", name) == given]
            if value.name not in fitting:
                problem = f"{show(value.name)} is no encoder of {given}; {did_you_mean(value.name, fitting)}"
                raise OptionError(f"{key}.name", problem)
            build(load("encoders", value.name).Config, value.options, key)


def _resolve_probes(evaluate: EvaluateConfig) -> tuple[dict[str, Options], dict[str, Options]]:
    probes = {}
    for probe in evaluate.probes:
        config: type[Options] = load("evaluation", probe.name).Config
        probes[probe.name] = build(config, probe.options, "evaluate.probes")
    more = {}
    for name, selection in evaluate.data.items():
        if selection.name not in (there := names("data")):
            problem = f"{show(selection.name)} is not allowed; {did_you_mean(selection.name, there)}"
            raise OptionError(f"evaluate.data.{name}.name", problem)
        config = load("data", selection.name).Config
        more[name] = build(config, selection.options, f"evaluate.data.{name}")
    return probes, more


def list_sources(trial: Trial, options: ResolvedTrial) -> dict[str, list[Path]]:
    """The files and folders that a trial's data are read from, by the key that says where they are."""
    chosen = {"data": (trial.data.name, options.data)} | {
        f"evaluate.data.{name}": (selection.name, options.more_data[name])
        for name, selection in trial.evaluate.data.items()
    }
    return {
        f"{key}.root" if hasattr(config, "root") else key: getattr(load("data", name), "sources", _no_sources)(config)
        for key, (name, config) in chosen.items()
    }


def _no_sources(config: Options) -> list[Path]:
    """Of a data set that does not say what it reads."""
    return []


def kind_of(family: str, name: str) -> str:
    """`images` or `records`: what a data set gives, and a method or an encoder takes."""
    return getattr(load(family, name), "KIND", "images")


def check_probe(name: str, config: Options, train: Facts | None, test: Facts, where: str = "") -> None:
    """Raise OptionError for a probe that cannot work with what is known; `where` says with which data."""
    try:
        getattr(load("evaluation", name), "check", _nothing_to_check)(config, train, test)
    except OptionError as error:
        key = f"evaluate.probes[{name}]" + (f".{error.key}" if error.key else "")
        raise OptionError(key, error.problem + where) from None


def _nothing_to_check(config: Options, train: Facts | None, test: Facts) -> None:
    """Of a probe without a `check` of its own."""


def _check_probes(trial: Trial, options: ResolvedTrial) -> None:
    """Raise OptionError for a probe that cannot work, as far as the plug-ins say without loading any data."""
    outputs = getattr(options.method, "outputs", None)
    datasets = {"": trial.data.name} | {f" (evaluate.data.{k})": v.name for k, v in trial.evaluate.data.items()}
    facts = {where: _facts(name, outputs) for where, name in datasets.items()}
    for name, config in options.probes.items():
        wanted = getattr(load("evaluation", name), "KIND", None)
        if wanted is not None and wanted != kind_of("data", trial.data.name):
            raise OptionError(
                f"evaluate.probes[{name}]", f"looks at {wanted}, and data {show(trial.data.name)} has none"
            )
        for where, test in facts.items():
            check_probe(name, config, facts[""], test, where)


def _facts(data: str, outputs: tuple[str, ...] | None) -> Facts:
    module, of_images = load("data", data), kind_of("data", data) == "images"
    return Facts(outputs, getattr(module, "LABELS", None), getattr(module, "TEXTS", () if of_images else None))


def _check_kinds(trial: Trial) -> None:
    """Raise OptionError where the data are not what the method or the encoder takes."""
    given = kind_of("data", trial.data.name)
    parts = {"methods": trial.method, "encoders": trial.encoder}
    for family, part in parts.items():
        if (wanted := kind_of(family, part.name)) != given:
            fitting = [name for name in names(family) if kind_of(family, name) == given]
            problem = f"{show(part.name)} takes {wanted}, and data {show(trial.data.name)} gives {given}"
            raise OptionError(FAMILIES[family], f"{problem}; there is {', '.join(fitting)}")
    for name, selection in trial.evaluate.data.items():
        if kind_of("data", selection.name) != given:
            raise OptionError(f"evaluate.data.{name}.name", f"{show(selection.name)} does not give {given}")
    if given != "images" and trial.views != ViewsConfig():
        raise OptionError("views", f"are of images, and data {show(trial.data.name)} gives {given}; leave it out")


def _check_views(trial: Trial) -> None:
    """Raise OptionError for views that the method would not look at, or would miss."""
    module, views = load("methods", trial.method.name), trial.views
    fewest, most = getattr(module, "GLOBAL_VIEWS", (1, None))
    if views.global_views < fewest or (most is not None and views.global_views > most):
        wanted = f"at least {fewest}" if most is None else f"{fewest}"
        problem = f"{views.global_views} is not allowed; method {show(trial.method.name)} compares {wanted}"
        raise OptionError("views.global_views", problem)
    if views.local_views and not getattr(module, "LOCAL_VIEWS", True):
        problem = f"{views.local_views} is not allowed; method {show(trial.method.name)} looks at global views only"
        raise OptionError("views.local_views", problem)
