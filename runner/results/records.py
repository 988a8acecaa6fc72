"""Results for other programs: every setting and every metric in a column, as CSV or Parquet."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.errors import ConfigError
from runner.files import replacing_output
from runner.results.compare import Pairs
from runner.results.groups import Setting
from runner.results.statistics import Spread
from runner.results.trials import TrialResult, metric_names, setting_keys
from runner.strict_yaml import flow


@dataclass(frozen=True)
class Records:
    """Named columns; None where a row has no value."""

    columns: list[str]
    rows: list[list[Any]]


def trial_records(results: list[TrialResult]) -> Records:
    """One row a trial, whatever its state: every setting, then every metric."""
    keys, metrics = setting_keys([result.settings for result in results]), metric_names(results)
    rows = [
        [
            result.trial,
            result.state,
            *(result.settings.get(key) for key in keys),
            *(result.metrics.get(name) for name in metrics),
        ]
        for result in results
    ]
    return Records(["trial", "state", *keys, *metrics], rows)


def group_records(groups: list[Setting]) -> Records:
    """One row a group: mean, deviation, interval and n of each metric, and the trials that are not counted."""
    keys = setting_keys([group.settings for group in groups])
    metrics = metric_names([trial for group in groups for trial in group.trials])
    heads = [f"{name} {part}" for name in metrics for part in _PARTS]
    rows = [
        [
            *(group.settings.get(key) for key in keys),
            len(group.trials),
            len(group.done),
            *(value for name in metrics for value in _parts(group.spread(name))),
            "; ".join(group.missing_words()),
        ]
        for group in groups
    ]
    return Records([*keys, "trials", "done", *heads, "missing"], rows)


def pair_records(compared: list[Pairs]) -> Records:
    """One row a metric of each comparison: the mean difference, its interval, n and p values."""
    keys = setting_keys([pairs.settings for pairs in compared])
    heads = ["key", "first", "second", *keys, "metric", *_PARTS, "p", "wilcoxon_p", "unpaired"]
    rows = []
    for pairs in compared:
        shared = [pairs.key, *pairs.values, *(pairs.settings.get(key) for key in keys)]
        for metric in metric_names([trial for pair in pairs.pairs for trial in pair]):
            if (paired := pairs.compare(metric)) is not None:
                p_values = [paired.p_value, paired.wilcoxon_p_value]
                rows.append([*shared, metric, *_parts(paired.difference), *p_values, "; ".join(pairs.unpaired)])
    return Records(heads, rows)


def write_csv(path: Path, records: Records) -> None:
    """Raises: ConfigError when the file cannot be written."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(records.columns)
    writer.writerows(["" if value is None else value for value in row] for row in records.rows)
    write_file(path, buffer.getvalue().encode())


def write_parquet(path: Path, records: Records) -> None:
    """Typed columns; a setting that is a list, or of several types, is text as in YAML.

    Raises: ConfigError without pyarrow, and when the file cannot be written.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ConfigError(f"--parquet {path}: needs pyarrow: pip install -e '.[results]'") from None
    columns = [list(column) for column in zip(*records.rows, strict=True)] or [[] for _ in records.columns]
    arrays = [pyarrow.array(_one_type(column), from_pandas=False) for column in columns]
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(arrays, names=records.columns), buffer)
    write_file(path, buffer.getvalue())


def write_file(path: Path, content: bytes) -> None:
    """Write a file the user named. Raises: ConfigError when it cannot be written."""
    try:
        with replacing_output(path) as file:
            file.write(content)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from None


_PARTS = ("mean", "std", "ci95_low", "ci95_high", "n")


def _parts(spread: Spread | None) -> list[Any]:
    if spread is None:
        return [None, None, None, None, 0]
    return [spread.mean, spread.std, *(spread.interval or (None, None)), spread.n]


def _one_type(values: list[Any]) -> list[Any]:
    """The values of a column with one type, which Arrow has: integers are floats beside floats, else all is text."""
    types = {type(value) for value in values if value is not None}
    if types <= {int, float} and float in types:
        return [None if value is None else float(value) for value in values]
    if types in (set(), {str}, {bool}) or (types == {int} and all(abs(value or 0) < 2**63 for value in values)):
        return values
    return [value if value is None or isinstance(value, str) else flow(value) for value in values]
