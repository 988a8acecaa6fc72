"""Which trials of a sweep are meant: `KEY=VALUE` for those with a setting, `!KEY=VALUE` for those without it."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from runner.differences import read_configs
from runner.errors import ConfigError
from runner.explain import did_you_mean
from runner.rundir import RunDir
from runner.strict_yaml import parse_scalar
from runner.tables import format_value, keys_named, same_text


@dataclass(frozen=True)
class Selector:
    """One condition on the config of a trial."""

    key: str
    """Dotted, or the end of a dotted key that no other key ends with."""

    value: str
    """As typed; `*` and `?` stand for anything."""

    negated: bool = False


def parse_selectors(words: Sequence[str]) -> list[Selector]:
    """Selectors as typed. Raises ConfigError for what is none."""
    found = []
    for word in words:
        key, sign, value = word.removeprefix("!").partition("=")
        if not key or not sign:
            raise ConfigError(f"{word!r}: must be KEY=VALUE, or !KEY=VALUE for trials without this setting")
        found.append(Selector(key, value, word.startswith("!")))
    return found


def select(runs: list[RunDir], selectors: Sequence[Selector]) -> list[RunDir]:
    """The trials that meet all of the conditions. Raises ConfigError for a key that none of them has."""
    if not selectors or not runs:
        return runs
    configs = read_configs(runs)
    keys = list(dict.fromkeys(key for config in configs for key in config))
    conditions = [(find_key(selector.key, keys), selector) for selector in selectors]
    return [
        run
        for run, config in zip(runs, configs, strict=True)
        if all((key in config and matches(config[key], each.value)) != each.negated for key, each in conditions)
    ]


def find_key(name: str, keys: Sequence[str]) -> str:
    """The key of that name, or the one that ends with it. Raises ConfigError when there is none, or several."""
    ends = keys_named(name, keys)
    if len(ends) == 1:
        return ends[0]
    if ends:
        raise ConfigError(f"{name}: may be {', '.join(ends[:4])}; give more of the key")
    names = keys if "." in name else short_ends(keys)
    raise ConfigError(f"{name}: no trial has this key; {did_you_mean(name, names)}")


def short_ends(keys: Sequence[str]) -> set[str]:
    """`lr` of `optimizer.lr`, and `encoder` of `encoder.name`."""
    return {key.removesuffix(".name").rpartition(".")[2] for key in keys}


def matches(setting: Any, typed: str) -> bool:
    """Whether a setting is the value that was typed: 0.1 is 1e-1, and `res*` is resnet18."""
    return same_text(setting) == same_text(parse_scalar(typed)) or fnmatchcase(format_value(setting), typed)
