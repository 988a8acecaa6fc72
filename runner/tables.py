"""How tables look on a terminal and in a file."""

import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from runner.strict_yaml import flow

PIPED_WIDTH = 200
"""Columns of a table that does not go to a terminal."""

FOLDING = ("", "metric", "not counted")
"""Columns of words, whose cells may be longer than there is room for."""


def make_console() -> Console:
    """A console on stdout whose tables are not cut off when they go to a file."""
    return Console(width=None if sys.stdout.isatty() else PIPED_WIDTH, highlight=False, soft_wrap=False)


def new_table(heads: list[str], counts: str = "") -> Table:
    """A table without rules, with a line of counts below it; words and metrics may take several lines."""
    table = Table(box=None, header_style="bold", pad_edge=False, caption=counts or None, caption_justify="left")
    for head in heads:
        table.add_column(head, overflow="fold", no_wrap=not (head in FOLDING or "/" in head))
    return table


def varying_keys(overrides: list[dict[str, Any]]) -> list[str]:
    """The keys whose value is not the same in all trials, in the order of their first appearance."""
    keys = dict.fromkeys(key for each in overrides for key in each)
    return [key for key in keys if len({same_text(each.get(key, "")) for each in overrides}) > 1]


def same_text(value: Any) -> str:
    """A text that equal settings share: 1 and 1.0 are one setting, true is another."""
    if type(value) in (int, float):
        return repr(float(value))
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(same_text, value))}]"
    return repr(value)


def short_names(keys: list[str]) -> list[str]:
    """`gamma` for `method.gamma` and `method` for `method.name`, unless two keys end alike."""
    ends = [key.removesuffix(".name").rpartition(".")[2] for key in keys]
    return [end if ends.count(end) == 1 else key for key, end in zip(keys, ends, strict=True)]


def describe(settings: dict[str, Any], keys: list[str]) -> str:
    """`gamma 0.5, seed 3`: the given settings by their short names."""
    pairs = zip(short_names(keys), keys, strict=True)
    return ", ".join(f"{name} {format_value(settings[key])}" for name, key in pairs if key in settings)


def format_value(value: Any) -> str:
    """Four digits of a number; other settings as they are typed in YAML, strings without quotes."""
    if isinstance(value, str):
        return value
    return f"{value:.4g}" if isinstance(value, float) else flow(value)


def format_age(seconds: float) -> str:
    """`12 s ago`, `3 min ago`, `2 h ago`, `5 d ago`."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{max(seconds, 0):.0f} s ago"
