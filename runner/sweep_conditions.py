"""Which points of a sweep a `when` or an `exclude` is about."""

from collections.abc import Iterator
from typing import Any

from runner.explain import OptionError, did_you_mean
from runner.schema import canonical, get_key
from runner.sweep_config import Block, Sweep

Condition = dict[str, set[str]]
"""Dotted key -> canonical JSON of the values that match."""


def parse_condition(written: dict[str, Any]) -> Condition:
    """A condition as written, where a list stands for any of its values."""
    return {
        key: {canonical(item) for item in (value if isinstance(value, list) else [value])}
        for key, value in written.items()
    }


_ABSENT = object()


def matches(condition: Condition, mapping: dict[str, Any]) -> bool:
    """Whether a trial as written has, of every key, one of the values."""
    for key, values in condition.items():
        value = get_key(mapping, key, _ABSENT)
        if value is _ABSENT or canonical(value) not in values:
            return False
    return True


def check_conditions(block: Block, at: str, settable: set[str], searched: set[str]) -> None:
    """Raise OptionError for a key that no trial writes: a typo, or a default not written out.

    What is searched is not known before a trial starts.
    """
    conditions = [(f"{at}.when.{index}.if", when.condition) for index, when in enumerate(block.when)]
    if isinstance(block, Sweep):
        conditions += [(f"{at}.exclude.{index}", condition) for index, condition in enumerate(block.exclude)]
    for place, condition in conditions:
        for key in condition:
            if not any(overlap(key, other) for other in settable):
                problem = f"no trial writes this key; {did_you_mean(key, settable)}"
                raise OptionError(f"{place}.{key}", problem)
            if any(overlap(key, other) for other in searched):
                raise OptionError(f"{place}.{key}", "is searched, so nobody knows it before the trial starts")
    for index, when in enumerate(block.when):
        check_conditions(when, f"{at}.when.{index}", settable, searched)


def dotted_keys(mapping: dict[str, Any], at: str = "") -> Iterator[str]:
    """The keys of all that is no group."""
    for key, value in mapping.items():
        if isinstance(value, dict) and value:
            yield from dotted_keys(value, f"{at}{key}.")
        else:
            yield f"{at}{key}"


def overlap(key: str, other: str) -> bool:
    """Whether two dotted keys are the same, or one is in the other."""
    return f"{key}.".startswith(f"{other}.") or other.startswith(f"{key}.")
