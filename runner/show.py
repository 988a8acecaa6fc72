"""Everything about one trial: config, where it came from, its attempts and why each of them ended."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from runner import nodes
from runner.errors import ConfigError
from runner.files import read_json
from runner.provenance import describe_commit
from runner.record import describe_end
from runner.rundir import RunDir
from runner.schema import load_yaml
from runner.status import Ask, Row, read_statuses


def show_trial(run: RunDir, ask: Ask | None = None) -> dict[str, Any]:
    """All that is known of a trial as one JSON document: the columns of `status`, and what lies behind."""
    (row,) = read_statuses([run], ask)
    config, config_damage = _read(run.config, lambda path: load_yaml(path).mapping)
    provenance, provenance_damage = _read(run.provenance, read_json)
    return row.as_json() | {
        "note": row.note,
        "folder": str(run.path),
        "config": config,
        "provenance": provenance,
        "damaged": config_damage | provenance_damage,
        "history": describe_attempts(row),
        "jobs": run.job_rows(),
        "checkpoints": _checkpoints(run),
        "result": row.record.result,
        "failure": row.record.failure,
        "excluded_nodes": list_excluded(run),
    }


def list_excluded(run: RunDir) -> list[dict[str, Any]]:
    """Nodes, of every cluster that the run root knows, that its trials stay away from for now."""
    root = nodes.root_of(run)
    return [
        {"cluster": cluster, "node": each.node, "until": each.until, "why": each.why}
        for cluster in nodes.list_clusters(root)
        for each in nodes.read_excluded(root, cluster)
    ]


def describe_attempts(row: Row) -> list[dict[str, Any]]:
    """One entry for each launch, in order: its start and end rows joined, and `why` it ended, in words."""
    entries: list[dict[str, Any]] = []
    for event in row.record.attempts:
        fields = {key: value for key, value in event.items() if key not in ("event", "time")}
        if event["event"] == "start":
            entries.append({**fields, "started": event["time"], "ended": None})
        elif entries and entries[-1]["ended"] is None and entries[-1]["attempt"] == event["attempt"]:
            entries[-1] |= fields | {"ended": event["time"], "why": describe_end(event)}
        else:
            entries.append({**fields, "started": None, "ended": event["time"], "why": describe_end(event)})
    for number, entry in enumerate(entries):
        if entry["ended"] is None:
            entry["why"] = _why_without_end(row, entry["attempt"], last=number == len(entries) - 1)
    return entries


def print_trial(document: dict[str, Any], console: Console) -> None:
    """The same for people."""
    steps = f"step {document['step']} of {document['steps'] or '?'}"
    console.print(Text(f"{document['experiment']}/{document['trial']}", style="bold"))
    words = f"{document['state']}, {steps}" + (f": {document['note']}" if document["note"] else "")
    for head, line in {"state": words, "folder": document["folder"], **_provenance_lines(document)}.items():
        console.print(Text(f"  {head:10} {line}"), soft_wrap=True)
    _print_part(console, "set by the sweep", document["overrides"])
    if "config.yaml" not in document["damaged"]:
        _print_part(console, "config", document["config"])
    for name, problem in document["damaged"].items():
        console.print(Text(f"{name} cannot be read: {problem}", style="bold red"), soft_wrap=True)
    if document["history"]:
        console.print(Text("attempts", style="bold"))
        console.print(_attempts_table(document["history"]))
        for entry in document["history"]:
            if entry.get("exact") not in (None, "yes"):
                console.print(Text(f"  attempt {entry['attempt']} goes on; exact: {entry['exact']}"), soft_wrap=True)
    for job in document["jobs"]:
        words = f"{_clock(job['time'])} to {job['cluster']} as {job['job_id']}, {job.get('submission')}"
        console.print(Text(f"  submitted  {words}"), soft_wrap=True)
    if document["checkpoints"]:
        console.print(Text(f"  checkpoints {', '.join(document['checkpoints'])}"), soft_wrap=True)
    failure = document["failure"]
    if failure is not None:
        console.print(Text("failed", style="bold red"))
        console.print(
            Text(f"  rank {failure.get('rank')}: {failure.get('cause')}: {failure.get('error')}"),
            soft_wrap=True,
        )
        if failure.get("traceback"):
            console.print(Text(f"  traceback in {failure['traceback']}"), soft_wrap=True)
    for each in document["excluded_nodes"]:
        words = f"{each['node']} of {each['cluster']} until {_clock(each['until'])}: {each['why']}"
        console.print(Text(f"  left out  {words}"), soft_wrap=True)
    if document["result"] is not None:
        _print_part(console, "result", document["result"])


def _why_without_end(row: Row, attempt: int, last: bool) -> str:
    # It writes no row of its own, which would stand among those of its successor.
    crash, _ = _read(row.run.crash(attempt, 0), read_json)
    if crash is not None and crash.get("cause") == "superseded":
        return "superseded: a newer attempt had taken over"
    if last and row.state == "running":
        return "running"
    if last and not row.settled:
        return "no word of its end yet"
    return "ended without a word: killed, or its node died"


def _read(path: Path, parse: Callable[[Path], Any]) -> tuple[dict[str, Any] | None, dict[str, str]]:
    """The mapping in a file, or {file name: what is wrong with it} in one line."""
    try:
        document = parse(path)
    except (OSError, ValueError, ConfigError) as error:
        return None, {path.name: " ".join(str(error).split())}
    if not isinstance(document, dict | None):
        return None, {path.name: "it holds no mapping"}
    return document, {}


def _checkpoints(run: RunDir) -> list[str]:
    folders = run.checkpoints.iterdir() if run.checkpoints.is_dir() else []
    return sorted(path.name for path in folders if path.name.startswith("step_"))


def _provenance_lines(document: dict[str, Any]) -> dict[str, str]:
    provenance = document["provenance"]
    if provenance is None:
        return {}
    lines = {
        "command": str(provenance.get("command")),
        "from": f"{provenance.get('user')}@{provenance.get('host')}",
    }
    if told := [*_code_lines(provenance)]:
        lines["code"] = ", of ".join(told)
    packages = provenance.get("packages") or {}
    lines["packages"] = ", ".join(
        f"{name} {packages[name]}" for name in ("runner", "torch", "submitit") if name in packages
    )
    return lines


def _code_lines(provenance: dict[str, Any]) -> Iterator[str]:
    if snapshot := provenance.get("snapshot"):
        yield str(snapshot.get("path"))
    if commit := describe_commit(provenance):
        yield f"commit {commit}"


def _attempts_table(entries: list[dict[str, Any]]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=True)
    for head in ("attempt", "started", "took", "job", "host", "ranks", "steps", "ended"):
        table.add_column(head, overflow="fold")
    for entry in entries:
        started, ended = entry["started"], entry["ended"]
        cells = [
            entry["attempt"],
            _clock(started) if started else "never",
            f"{ended - started:.0f} s" if started and ended else "",
            entry.get("job_id", ""),
            entry.get("host", ""),
            entry.get("world_size", ""),
            f"{entry.get('start_step', '')}-{entry.get('end_step') or ''}" if started else "",
            entry["why"],
        ]
        table.add_row(*(Text(str(cell)) for cell in cells))
    return table


def _print_part(console: Console, head: str, document: Any) -> None:
    console.print(Text(head, style="bold"))
    text = yaml.safe_dump(document, sort_keys=False) if document else "nothing\n"
    console.print(Text("".join(f"  {line}\n" for line in text.splitlines())), end="", soft_wrap=True)


def _clock(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
