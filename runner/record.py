"""What a run folder records of its trial; reads ends of files only, so that 1,000 trials take no time."""

import json
import os
import re
from collections.abc import Container, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from runner.errors import ConfigError
from runner.files import read_json, read_whole
from runner.rundir import RunDir
from runner.strict_yaml import is_number, parse_yaml

MAIN_METRICS = ("test/linear_top1", "test/knn_top1", "validation/linear_top1", "validation/knn_top1")
"""Shown first where a trial has several; then any other test metric, then the training loss."""

TAIL_BYTES = 65536
LOST = "config.yaml is missing"
_CHECKPOINT = re.compile(r"step_(\d{8,})\.\d+")
_DATED = ("metrics.jsonl", "attempts.jsonl", "jobs.jsonl", "result.json", "failure.json", "cancelled.json")


@dataclass(frozen=True)
class Record:
    """What the run folder says about a trial."""

    overrides: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] | None = None
    failure: dict[str, Any] | None = None
    cancelled: bool = False
    damaged: str = ""
    """Why its state cannot be told: a file that would tell it is missing or cannot be read, with the file's name."""

    is_closed: bool = False
    """Its folder, or a file there, is closed to us."""

    flaw: str = ""
    """What else of it cannot be read, though its state is known."""

    let_go: str | None = None
    """The submission whose local queue will not touch the cancelled trial any more."""

    attempts: list[dict[str, Any]] = field(default_factory=list)
    """Rows of attempts.jsonl."""

    job: dict[str, Any] | None = None
    """Last row of jobs.jsonl."""

    step: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    """Last values: of result.json, else from the end of metrics.jsonl."""

    updated: float | None = None
    """Unix seconds of the last change of any of these files."""

    @property
    def is_final(self) -> bool:
        return self.result is not None or self.failure is not None or self.cancelled

    @property
    def has_open_attempt(self) -> bool:
        """An attempt of the last submission has not written its end; it may have died without a word."""
        last = self.attempts[-1] if self.attempts else {"event": "none"}
        return last["event"] == "start" and (self.job is None or last["time"] >= self.job["time"])

    @property
    def awaits_requeue(self) -> bool:
        """The last attempt saved and asked to be started again."""
        return bool(self.attempts) and bool(self.attempts[-1].get("requeue"))

    @property
    def steps(self) -> int | None:
        """Steps of the whole trial; unknown before its first attempt."""
        known = [row["steps"] for row in self.attempts if row.get("steps") is not None]
        if known:
            return int(known[-1])
        return self.step if self.result else None


def read_record(run: RunDir) -> Record:
    """Everything the run folder says about the state of its trial."""
    try:
        there = _list(run)
        record = _read_end(run, there, is_whole=True)
    except PermissionError as error:
        return Record(damaged=f"{error.filename or run.path} cannot be read: {error.strerror}", is_closed=True)
    result, attempts = record.result, record.attempts
    logged = _last_metrics(run) if "metrics.jsonl" in there and result is None else {}
    return replace(
        record,
        flaw="; ".join(filter(None, [record.flaw, config_flaw(run)])),
        overrides=read_overrides(run) if "overrides.yaml" in there else {},
        step=result["step"] if result else _step(run, attempts, logged, "checkpoints" in there),
        metrics=result["metrics"] if result else {k: x for k, x in logged.items() if "/" in k and is_number(x)},
        updated=max((there[name].stat().st_mtime for name in _DATED if name in there), default=None),
    )


def read_end(run: RunDir) -> Record:
    """What decides the state of a trial: of one that is done the result alone. For thousands of trials at once."""
    return _read_end(run, _list(run), is_whole=False)


def find_flaw(config: bytes) -> str:
    """Why the content of a config.yaml is not what was written; empty where it looks whole."""
    if not config.strip():
        return "config.yaml is empty"
    if b"\0" in config:
        return "config.yaml is damaged: it has NUL bytes"
    try:
        text = config.decode()
    except UnicodeDecodeError:
        return "config.yaml is damaged: it is no text"
    # It is written in one order, in which `train` comes late, and ends with a line.
    return "" if text.endswith("\n") and "\ntrain:" in f"\n{text}" else "config.yaml is cut short"


def config_flaw(run: RunDir) -> str:
    """The same of a run folder's; empty where there is none, which is told otherwise."""
    try:
        return find_flaw(read_whole(run.config))
    except FileNotFoundError:
        return ""
    except ValueError:
        return "config.yaml is no regular file"
    except OSError as error:
        return f"config.yaml cannot be read: {error.strerror}"


def _list(run: RunDir) -> dict[str, os.DirEntry[str]]:
    with os.scandir(run.path) as entries:
        return {entry.name: entry for entry in entries}


def _read_end(run: RunDir, there: Container[str], is_whole: bool) -> Record:
    damaged: list[str] = []

    def document(name: str, *keys: str) -> dict[str, Any] | None:
        try:
            found = read_json(run.path / name) if name in there else None
        except ValueError as error:
            damaged.append(str(error))
            return None
        if found is not None and (missing := [key for key in keys if key not in found]):
            damaged.append(f"{run.path / name}: has no {missing[0]}")
            return None
        return found

    result = document("result.json", "step", "metrics")
    if result is not None and not (isinstance(result["step"], int) and isinstance(result["metrics"], dict)):
        damaged.append(f"{run.path / 'result.json'}: its step is no number, or its metrics are no mapping")
        result = None
    if result is not None and (wrong := [name for name, x in result["metrics"].items() if not is_number(x)]):
        damaged.append(f"{run.path / 'result.json'}: {wrong[0]} is no number")
        result = {**result, "metrics": {name: x for name, x in result["metrics"].items() if name not in wrong}}
    if result is not None and not is_whole:
        return Record(result=result)
    failure = document("failure.json")
    is_lost = "config.yaml" not in there
    attempts = run.attempt_rows() if "attempts.jsonl" in there else []
    if "attempts.jsonl" in there and not attempts and run.attempts.stat().st_size:
        damaged.append(f"{run.attempts}: no row of it can be read")
    jobs = run.job_rows() if "jobs.jsonl" in there else []
    return Record(
        result=result,
        failure=failure,
        cancelled="cancelled.json" in there,
        damaged=LOST if is_lost else "; ".join(damaged if result is None else []),
        flaw="; ".join(damaged if result is not None else []),
        let_go=_let_go(run) if "cancelled.json" in there else None,
        attempts=attempts,
        job=jobs[-1] if jobs else None,
    )


def _let_go(run: RunDir) -> str | None:
    try:
        return (read_json(run.cancelled) or {}).get("let_go")
    except ValueError:
        return None


def main_metric(metrics: Iterable[str]) -> str | None:
    """The metric to show when there is room for one: linear probe, kNN, another of an evaluation, loss."""
    names = list(metrics)
    candidates = [name for name in MAIN_METRICS if name in names]
    candidates += [name for name in names if is_evaluation(name)]
    candidates += [name for name in names if name == "train/loss"]
    return candidates[0] if candidates else next(iter(names), None)


def is_evaluation(name: str) -> bool:
    """Whether a metric is of a data set that is evaluated, such as `test/knn_top1`."""
    return "/" in name and not name.startswith("train/")


def describe_end(row: dict[str, Any]) -> str:
    """How an attempt ended, from its end row: "preempted at step 120, saved in 0.21 s, requeued"."""
    words = str(row.get("cause") or "ended")
    if row.get("end_step") is not None:
        words += f" at step {row['end_step']}"
    if row.get("rank") is not None:
        words += f", because of rank {row['rank']}"
    if row.get("node"):
        words += f", on {row['node']}"
    if row.get("signal_to_saved_seconds") is not None:
        words += f", saved in {row['signal_to_saved_seconds']:.2f} s"
    later = f" in {row['delay_seconds']} s" if row.get("delay_seconds") else ""
    return words + (f", requeued{later}" if row.get("requeue") else "")


def read_overrides(run: RunDir) -> dict[str, Any]:
    """What the sweep set in a trial; nothing where that cannot be read."""
    try:
        document, _ = parse_yaml(read_whole(run.overrides).decode(), str(run.overrides))
    except (ConfigError, ValueError, FileNotFoundError):
        # Of use for columns only: `runner show` has the whole config.
        return {}
    return document if isinstance(document, dict) else {}


def _last_metrics(run: RunDir) -> dict[str, Any]:
    """The last row of metrics.jsonl, laid over the last row that holds an evaluation."""
    tail = read_tail(run)
    # Whatever else is evaluated, the test part or a validation part is, too.
    found: dict[str, Any] = {}
    for holding in ("validation/", "test/", "step"):
        for row in last_rows(tail, holding, 1):
            found |= row
    return found


def read_tail(run: RunDir) -> bytes:
    """The end of metrics.jsonl, which may begin within a row; nothing of what is no file."""
    if not run.metrics.is_file():
        return b""
    with run.metrics.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - TAIL_BYTES))
        return file.read()


def last_rows(tail: bytes, holding: str, count: int) -> list[dict[str, Any]]:
    """The last whole rows, oldest first and at most so many, that hold a key with this beginning."""
    sought, end = f'"{holding}'.encode(), len(tail)
    rows: list[dict[str, Any]] = []
    while len(rows) < count and (at := tail.rfind(sought, 0, end)) >= 0:
        end, close = tail.rfind(b"\n", 0, at) + 1, tail.find(b"\n", at)
        try:
            row = json.loads(tail[end : close if close >= 0 else None])
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows[::-1]


def _step(run: RunDir, attempts: list[dict[str, Any]], logged: dict[str, Any], checkpoints: bool) -> int | None:
    """The last step known from checkpoints, metrics, or the rows of the last attempt."""
    steps = [row.get("start_step") if row["event"] == "start" else row.get("end_step") for row in attempts[-2:]]
    steps.append(logged.get("step"))
    if checkpoints:
        found = [match for name in os.listdir(run.checkpoints) if (match := _CHECKPOINT.fullmatch(name))]
        newest_first = sorted(found, key=lambda match: int(match[1]), reverse=True)
        # A folder without a manifest is no checkpoint.
        whole = (int(match[1]) for match in newest_first if (run.checkpoints / match[0] / "manifest.json").exists())
        steps.append(next(whole, None))
    return max((step for step in steps if step is not None), default=None)
