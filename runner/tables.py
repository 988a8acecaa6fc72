"""How tables look on a terminal and in a file."""

import math
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
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


def keys_named(name: str, keys: Iterable[str]) -> list[str]:
    """The key of that name, else those that end with it: `gamma` is method.gamma, `method` is method.name."""
    keys = list(keys)
    if name in keys:
        return [name]
    return [key for key in keys if f".{key.removesuffix('.name')}".endswith(f".{name}") or key.endswith(f".{name}")]


def short_names(keys: list[str], others: Iterable[str] = ()) -> list[str]:
    """The shortest end of each key that no other of them has, nor one of `others`, the keys of a whole config.

    `gamma` for `method.gamma`, `method` for `method.name`, `blur.probability` where a jitter has one, too.
    """
    ends = Counter(end for key in dict.fromkeys([*keys, *others]) for end in _ends(key))
    return [next((end for end in _ends(key) if ends[end] == 1), key) for key in keys]


def _ends(key: str) -> list[str]:
    """`probability`, `blur.probability` and `views.blur.probability`, the shortest first."""
    parts = key.removesuffix(".name").split(".")
    return [".".join(parts[place:]) for place in reversed(range(len(parts)))]


def describe(settings: dict[str, Any], keys: list[str], others: Iterable[str] = ()) -> str:
    """`gamma 0.5, seed 3`: the given settings by their short names."""
    pairs = zip(short_names(keys, others), keys, strict=True)
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


def format_duration(seconds: float) -> str:
    """`12 s`, `3 min`, `2 h 5 min`, `3 d 4 h`."""
    minutes, hours, days = seconds / 60, int(seconds // 3600), int(seconds // 86400)
    if minutes < 1:
        return f"{seconds:.0f} s"
    if hours < 1:
        return f"{minutes:.0f} min"
    return f"{hours} h {minutes % 60:.0f} min" if days < 1 else f"{days} d {hours % 24} h"


def format_clock(at: float, now: float) -> str:
    """`17:42`, `Fri 17:42` within a week, `2026-12-31` later; both in unix seconds."""
    there, here = time.localtime(at), time.localtime(now)
    if there[:3] == here[:3]:
        return time.strftime("%H:%M", there)
    return time.strftime("%a %H:%M" if at - now < 6 * 86400 else "%Y-%m-%d", there)


def draw_bar(fraction: float, width: int, unicode: bool = True) -> str:
    """A bar of so many columns, to eighths of one."""
    if not unicode:
        return f"{'#' * round(fraction * width)}".ljust(width, "-")
    eighths = round(fraction * width * 8)
    part = "" if eighths % 8 == 0 else chr(0x2590 - eighths % 8)
    return ("\u2588" * (eighths // 8) + part).ljust(width, "\u2591")


def draw_trend(values: Sequence[float], width: int) -> str:
    """The last values as a line of bars of eight heights, the lowest to the highest; empty for less than two."""
    last = [value for value in values if math.isfinite(value)][-width:]
    if len(last) < 2:
        return ""
    low, high = min(last), max(last)
    span = (high - low) or 1.0
    return "".join(chr(0x2581 + round(7 * (value - low) / span)) for value in last)
