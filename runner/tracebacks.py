"""Why trials failed, in short: the first traceback of each, those that are equal once."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.differences import read_settings
from runner.errors import UserError
from runner.evidence import read_crashes, read_tail
from runner.logs import find_log, list_logs
from runner.masking import mask_text
from runner.rundir import RunDir
from runner.signs import read_log
from runner.status import Row
from runner.tables import format_value, short_names, varying_keys

FRAMES, LINES = 3, 5
"""Of a traceback, the innermost; of a message, or of a log without a traceback, the last."""

NAMED = 4
"""Trials of a group that are named."""

_HEAD = "Traceback (most recent call last):"
_RANK = re.compile(r"^\[rank\d+\]: ?", re.MULTILINE)
_FRAME = re.compile(r'  File "(?P<file>.+)", line (?P<line>\d+)(?:, in (?P<name>.+))?')
_MARKS = re.compile(r"[\s~^]*")


@dataclass(frozen=True)
class Group:
    """Trials that failed alike."""

    rows: tuple[Row, ...]
    cause: str
    words: str
    """What is known of the cause, several lines."""


def explain_failures(rows: list[Row]) -> list[Group]:
    """The trials that failed, by how they did; the largest group first."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.state == "failed":
            cause = str((row.record.failure or {}).get("cause") or row.note)
            groups.setdefault((cause, describe_failure(row)), []).append(row)
    found = [Group(tuple(members), cause, words) for (cause, words), members in groups.items()]
    return sorted(found, key=lambda group: -len(group.rows))


def tell_failures(rows: list[Row]) -> Iterator[str]:
    """The lines of `runner logs --failed`, of all trials of a sweep."""
    groups = explain_failures(rows)
    settings = _settings(rows) if groups else {}
    for group in groups:
        names = [f"{row.trial}{settings[row.run]}" for row in group.rows[:NAMED]]
        more = f" and {len(group.rows) - NAMED} more" if len(group.rows) > NAMED else ""
        yield f"{', '.join(names)}{more}: {group.cause}"
        yield from (f"  {line}" for line in group.words.splitlines())
        yield ""


def describe_failure(row: Row) -> str:
    """The first traceback of a trial in short; where it left none, what its log ends with."""
    failure = row.record.failure or {}
    for path in _written(row, failure):
        if short := shorten(_read(path)):
            return mask_text(short)
    error = [str(failure["error"])] if failure.get("error") else []
    try:
        tail = read_tail(find_log(row.run))
    except UserError:
        return mask_text("\n".join(error))
    if short := shorten(tail, lines=1):
        return mask_text(short)
    # What somebody recognised says more than whatever came last.
    line = read_log(tail).line
    return mask_text("\n".join(error or ([line] if line else tail.strip().splitlines()[-LINES:])))


def shorten(text: str, lines: int = LINES) -> str:
    """The innermost frames and the error of the first traceback in a text, and what that became; empty without one.

    An error's message has at most so many lines; in a log nobody knows where it ends.
    """
    blocks = _RANK.sub("", text).split(_HEAD)[1:]
    if not blocks:
        return ""
    frames, error = _parse(blocks[0])
    # The cause of a chain is printed first, what was raised from it next.
    chained = [blocks[0]]
    while len(chained) < len(blocks) and _leads_on(chained[-1]):
        chained.append(blocks[len(chained)])
    last = _parse(chained[-1])[1][:1]
    return "\n".join([*frames[-FRAMES:], *error[:lines], *(f"so {line}" for line in last if len(chained) > 1)])


def _leads_on(block: str) -> bool:
    return "During handling of the above exception" in block or "direct cause of the following exception" in block


def _parse(block: str) -> tuple[list[str], list[str]]:
    """(frames, error): each frame as `file:line in name` and its line of code."""
    frames: list[str] = []
    lines = block.strip("\n").splitlines()
    for number, line in enumerate(lines):
        if match := _FRAME.match(line):
            frames.append(f"{_shorten_path(match['file'])}:{match['line']} in {match['name'] or '?'}")
        elif line.startswith("    ") and frames:
            if not _MARKS.fullmatch(line) and "\n" not in frames[-1]:
                frames[-1] += f"\n    {line.strip()}"
        elif line and not line.startswith(" "):
            told = lines[number:]
            ends = next((i for i, each in enumerate(told) if not each.strip()), len(told))
            return frames, told[: min(ends, LINES)]
    return frames, []


def _shorten_path(path: str) -> str:
    """From the package on: runner/losses/x.py, torch/nn/modules/linear.py; else the last two parts."""
    _, found, rest = path.rpartition("site-packages/")
    if found:
        return rest
    own = Path(__file__).parent.parent
    place = Path(path)
    return str(place.relative_to(own)) if place.is_relative_to(own) else "/".join(place.parts[-2:])


def _written(row: Row, failure: dict[str, Any]) -> list[Path]:
    """The files of tracebacks that the ranks left, the first to fail first."""
    attempts = sorted({attempt for attempt, _ in list_logs(row.run)})
    crashes = read_crashes(row.run, attempts[-1]) if attempts else []
    told = [failure.get("traceback"), *(crash.get("traceback") for crash in crashes)]
    return [Path(path) for path in told if path]


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _settings(rows: list[Row]) -> dict[RunDir, str]:
    """What sets each of the trials apart, as ` (lr=0.1 seed=2)`."""
    found, known = read_settings([row.run for row in rows], [row.record.overrides for row in rows])
    keys = varying_keys(found)
    names = short_names(keys, known)
    words = [
        " ".join(f"{name}={format_value(each[key])}" for name, key in zip(names, keys, strict=True) if key in each)
        for each in found
    ]
    return {row.run: f" ({told})" if told else "" for row, told in zip(rows, words, strict=True)}
