"""Experiment files and trial configs: read, overridden, validated group by group, then as a whole. Needs no torch."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from runner.config import Trial, check_together
from runner.explain import MISSING, OptionError, did_you_mean, explain, first_of
from runner.schema import Document, canonical, load_yaml, override, refuse_secrets
from runner.strict_yaml import flow, show

OUTSIDE_IDENTITY = frozenset({"name", "sweep", "resources", "tracking", "checkpoint", "rehearse"})
"""Top-level keys that do not change what a trial computes, and so not its id either."""


@dataclass(frozen=True)
class Change:
    """A dotted key whose value is another one now."""

    key: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.key} was {flow(self.old)}, is {flow(self.new)}"


def find_changes(old: Any, new: Any, key: str) -> Iterator[Change]:
    """Where two values at a dotted key differ.

    Keys that only one of them has do not count: another version of this program adds and drops options. But for
    those of `tracking`, which are the mirrors, and their options as they were typed.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        for name in {**old, **new}:
            if name in old and name in new:
                yield from find_changes(old[name], new[name], f"{key}.{name}")
            elif key.removeprefix("file.").partition(".")[0] == "tracking":
                yield Change(f"{key}.{name}", old.get(name), new.get(name))
    elif canonical(old) != canonical(new):
        yield Change(key, old, new)


def differing_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """`optimizer.lr was 0.1, is 0.2` for each key of two dumped trials that changes what is computed."""
    return [
        str(change)
        for key in new
        if key in old and key not in OUTSIDE_IDENTITY
        for change in find_changes(old[key], new[key], key)
    ]


@dataclass(frozen=True)
class Experiment:
    """An experiment file with the overrides of the command line, before its sweep is expanded."""

    name: str
    base: dict[str, Any]
    """Everything but the sweep, as written."""

    sweep: dict[str, Any] | None
    document: Document


def load_experiment(path: str | Path, overrides: Iterable[str] = ()) -> Experiment:
    """Read an experiment file and set each `KEY=VALUE`; of the values, only the name is checked here.

    Raises ConfigError, in one line.
    """
    document = override(load_yaml(path), overrides)
    refuse_secrets(document)
    # A config.yaml, which may be run again, says which trial of which search it is, or that it is of none.
    without = {"sweep"} if document.mapping.get("search") is not None else {"sweep", "search"}
    base = {key: value for key, value in document.mapping.items() if key not in without}
    if "search" in base and not (isinstance(base["search"], dict) and "study" in base["search"]):
        raise document.locate(OptionError("search", "belongs under sweep: write sweep: {search: ...}"))
    sweep = document.mapping.get("sweep")
    if sweep is not None and not isinstance(sweep, dict):
        problem = f"{show(sweep)} is not allowed; must be a mapping, such as {{grid: {{train.seed: [0, 1]}}}}"
        raise document.locate(OptionError("sweep", problem))
    evaluate = document.mapping.get("evaluate")
    for data in (evaluate.get("data") or {}) if isinstance(evaluate, dict) else {}:
        if "." in str(data):
            problem = f"{show(data)} is not allowed; must have no dot, which is between the parts of a key"
            raise document.locate(OptionError("evaluate.data", problem))
    try:
        name = _validated("name", canonical(base["name"])) if "name" in base else None
    except OptionError as error:
        raise document.locate(error) from None
    if name is None:
        raise document.locate(OptionError("name", "is missing"))
    return Experiment(name, base, sweep, document)


def load_trial(path: str | Path) -> Trial:
    """The trial in a file without a sweep, such as the config.yaml of a run folder; raises ConfigError."""
    document = load_yaml(path)
    try:
        return validate(document.mapping)
    except OptionError as error:
        raise document.locate(error) from None


def validate(mapping: dict[str, Any]) -> Trial:
    """The trial that a mapping without `sweep` describes; raises OptionError for the first misfit."""
    return validate_groups({key: canonical(value) for key, value in mapping.items()}, {})


def validate_groups(groups: Mapping[str, str], seen: dict[tuple[str, str], Any]) -> Trial:
    """`validate` for canonical JSON by top-level key, remembering in `seen` what is valid already."""
    adapters = _adapters()
    errors = [OptionError(key, f"unknown key; {did_you_mean(key, adapters)}") for key in groups if key not in adapters]
    errors += [OptionError(key, MISSING) for key in _required() if key not in groups]
    values = dict(_defaults())
    for key, text in groups.items():
        if (key, text) not in seen and key in adapters:
            try:
                seen[key, text] = _validated(key, text)
            except OptionError as error:
                errors.append(error)
        values[key] = seen.get((key, text))
    if errors:
        raise first_of(errors)
    # The groups are valid one by one: what is left is how they fit together.
    trial = Trial.model_construct(set(groups), **values)
    check_together(trial)
    return trial


def check_machine(trial: Trial, cuda: bool) -> None:
    """Raise ConfigError for what a machine with or without a GPU cannot do."""
    if trial.train.sync_batch_norm and trial.resources.ranks > 1 and not cuda:
        raise OptionError("train.sync_batch_norm", "true is not allowed without a GPU: torch has it for CUDA only")
    if trial.train.backend == "nccl" and not cuda:
        raise OptionError("train.backend", '"nccl" is not allowed without a GPU; use auto or gloo')


def check_negatives(trial: Trial) -> None:
    """Raise ConfigError when a pass has one sample on each rank; for losses with in-batch negatives."""
    share = trial.resources.ranks * trial.train.accumulate
    if trial.train.batch_size < 2 * share:
        problem = f"{trial.train.batch_size} is not allowed; with one sample in each pass of a rank the loss has "
        raise OptionError("train.batch_size", f"{problem}no negatives; must be at least {2 * share}")


def check_batch_statistics(trial: Trial) -> None:
    """Raise ConfigError when a head with batch norm would normalise one sample by itself."""
    synced = trial.train.sync_batch_norm and trial.resources.ranks > 1
    share = trial.resources.ranks * trial.train.accumulate
    if trial.train.steps != 0 and not synced and trial.train.batch_size < 2 * share:
        problem = f"{trial.train.batch_size} is not allowed; batch norm takes two samples in each pass of a rank"
        raise OptionError("train.batch_size", f"{problem}; must be at least {2 * share}")


def check_warmup(warmup_steps: int, total_steps: int) -> None:
    """Raise ConfigError when the warm-up is longer than the training."""
    if warmup_steps > total_steps:
        problem = f"{warmup_steps} is not allowed; must be at most {total_steps}, the steps of the whole training"
        raise OptionError("schedule.warmup_steps", problem)


def warnings(trial: Trial, cuda: bool = False) -> list[str]:
    """Advice in one line each: allowed, but rarely meant."""
    advice = []
    if trial.train.precision == "fp16" and not cuda:
        advice.append('train.precision: "fp16" is slow on a CPU; bf16 is faster there and needs no loss scaling')
    if trial.search is not None and trial.search.metric.startswith("test/"):
        advice.append("sweep.search.metric: is of the test data; choose by evaluate.on: validation")
    return advice


def _validated(key: str, text: str) -> Any:
    """The value of one top-level key from its JSON."""
    try:
        return _adapters()[key].validate_json(text, strict=True)
    except ValidationError as error:
        raise first_of(explain(error, Trial.model_fields[key].annotation, json.loads(text), key)) from None


@cache
def _adapters() -> dict[str, TypeAdapter[Any]]:
    return {key: TypeAdapter(field.rebuild_annotation()) for key, field in Trial.model_fields.items()}


@cache
def _defaults() -> dict[str, Any]:
    return {key: field.default for key, field in Trial.model_fields.items() if not field.is_required()}


@cache
def _required() -> tuple[str, ...]:
    return tuple(key for key, field in Trial.model_fields.items() if field.is_required())
