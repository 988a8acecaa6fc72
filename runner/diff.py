"""What sets two trials apart: config, code, environment, metrics, attempts."""

from collections import Counter
from typing import Any

from rich.console import Console
from rich.text import Text

from runner.code_changes import compare_code
from runner.code_snapshot import home_of, read_package
from runner.columns import Column, fits
from runner.differences import flatten
from runner.errors import ConfigError
from runner.files import read_json
from runner.provenance import describe_commit
from runner.record import config_flaw
from runner.rundir import RunDir
from runner.schema import load_yaml
from runner.status import Ask, Row, read_statuses
from runner.tables import format_value, new_table, same_text
from runner.trial_environment import read_environment

Pairs = dict[str, list[Any]]
"""What differs: key -> the values of both, None where one has none."""


def diff_trials(first: RunDir, second: RunDir, ask: Ask | None = None) -> dict[str, Any]:
    """Everything in which two trials differ, as one JSON document.

    Raises: ConfigError for a config or a provenance that cannot be read.
    """
    runs = [first, second]
    rows = read_statuses(runs, ask)
    return {
        "trials": [f"{run.experiment}/{run.trial}" for run in runs],
        "config": differing(*map(_read_config, runs)),
        "code": diff_code(first, second),
        "environment": differing(*map(read_environment, runs)),
        "metrics": _diff_metrics(*(row.record.metrics for row in rows)),
        "attempts": differing(*map(_describe_course, rows)),
    }


def _read_config(run: RunDir) -> dict[str, Any]:
    # What is cut off would look like so many differences.
    if flaw := config_flaw(run):
        raise ConfigError(f"{run.experiment}/{run.trial}: {flaw}")
    return flatten(load_yaml(run.config).mapping)


def differing(first: dict[str, Any], second: dict[str, Any]) -> Pairs:
    """The keys whose values are not the same, with both values."""
    keys = dict.fromkeys([*first, *second])
    pairs = {key: [first.get(key), second.get(key)] for key in keys}
    return {key: pair for key, pair in pairs.items() if same_text(pair[0]) != same_text(pair[1])}


def diff_code(first: RunDir, second: RunDir) -> dict[str, Any]:
    """Whether two trials have one code, and the changes from one to the other where both kept theirs.

    `same` is None where nothing tells.
    """
    runs = (first, second)
    names = [_name_of_code(run) for run in runs]
    same = names[0] == names[1] if all(names) else None
    kept = [home_of(run.path.parents[1], name) / "runner" for run, name in zip(runs, names, strict=True) if name]
    has_both = same is False and all(package.is_dir() for package in kept)
    changes = compare_code(*map(read_package, kept)) if has_both else []
    return {
        "same": same,
        "code": names,
        "commits": [describe_commit(_read_provenance(run)) for run in runs],
        "files": [{"file": each.file, "added": each.added, "removed": each.removed} for each in changes],
        "patch": "".join(each.patch for each in changes),
    }


def print_diff(document: dict[str, Any], console: Console, with_code: bool = False) -> None:
    """The same for people; with the whole patch if `with_code`."""
    first, second = document["trials"]
    _print_pairs(console, "config", document["config"], first, second)
    _print_code(console, document["code"], with_code)
    for part in ("environment", "metrics", "attempts"):
        _print_pairs(console, part, document[part], first, second)


def _print_pairs(console: Console, head: str, pairs: Pairs, first: str, second: str) -> None:
    if not pairs:
        console.print(Text.assemble((head, "bold"), ": the same"))
        return
    heads = [head, first, second, *(["difference"] if head == "metrics" else [])]
    lines = [[key, *("" if value is None else format_value(value) for value in each)] for key, each in pairs.items()]
    columns = [Column(name, [Text(line[place]) for line in lines], 0) for place, name in enumerate(heads)]
    if not fits(columns, console.width):
        _print_stack(console, heads, lines)
        return
    table = new_table(heads)
    for line in lines:
        table.add_row(*map(Text, line))
    console.print(table)


def _print_stack(console: Console, heads: list[str], lines: list[list[str]]) -> None:
    """Each key on a line of its own, its values below it, where they have no room side by side."""
    console.print(Text(heads[0], "bold"))
    wide = max(map(len, heads[1:]))
    for key, *values in lines:
        console.print(Text(f"  {key}"), soft_wrap=True)
        for name, value in zip(heads[1:], values, strict=True):
            console.print(Text(f"    {name:{wide}}  {value}".rstrip()), soft_wrap=True)


def _print_code(console: Console, code: dict[str, Any], with_code: bool) -> None:
    names = [name or "unknown" for name in code["code"]]
    words = {True: f"the same, {names[0]}", False: " and ".join(names), None: "unknown: one kept none"}[code["same"]]
    console.print(Text.assemble(("code", "bold"), f": {words}"))
    for name, sha in zip(names, code["commits"], strict=True):
        if sha and code["same"] is not True:
            console.print(Text(f"  {name} of commit {sha}"), soft_wrap=True)
    for each in code["files"]:
        console.print(Text(f"  {each['file']} +{each['added']} -{each['removed']}"), soft_wrap=True)
    if with_code:
        console.print(Text(code["patch"]), end="", soft_wrap=True)


def _name_of_code(run: RunDir) -> str | None:
    """The digest of the code of the last attempt, or of what the next would run."""
    ran = [row["code"] for row in run.attempt_rows() if row.get("code")]
    return str(ran[-1]) if ran else (_read_provenance(run).get("snapshot") or {}).get("code")


def _read_provenance(run: RunDir) -> dict[str, Any]:
    return read_json(run.provenance) or {}


def _diff_metrics(first: dict[str, float], second: dict[str, float]) -> Pairs:
    """The final value of every metric in both, and how much more the second has."""
    pairs = differing(first, second)
    return {name: [old, new, None if None in (old, new) else new - old] for name, (old, new) in pairs.items()}


def _describe_course(row: Row) -> dict[str, Any]:
    causes = Counter(str(each.get("cause")) for each in row.record.attempts if each["event"] == "end")
    inexact = [each["exact"] for each in row.record.attempts if each.get("exact") not in (None, "yes")]
    return {
        "state": row.state,
        "step": row.record.step,
        "steps": row.record.steps,
        "attempts": row.attempts,
        **{f"ended {cause}": count for cause, count in causes.items()},
        "exact": "; ".join(inexact) or "yes",
    }
