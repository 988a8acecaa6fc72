"""Where a trial ran, and with what: what its folder says of machines, versions and devices."""

from pathlib import Path
from typing import Any

from runner.files import read_json
from runner.manifest import MANIFEST
from runner.rundir import RunDir


def read_environment(run: RunDir) -> dict[str, Any]:
    """Versions and machine of the submission, with what ran last in front of it, as its newest checkpoint tells.

    A file that cannot be read tells nothing.
    """
    provenance = _read(run.provenance)
    started = [row for row in run.attempt_rows() if row["event"] == "start"]
    hosts = dict.fromkeys(host for row in started for host in row.get("nodes") or [row.get("host")])
    facts = read_facts(run)
    facts.pop("code", None)
    told = {key: provenance[key] for key in ("python", "platform") if key in provenance}
    return told | dict(provenance.get("packages") or {}) | facts | {"hosts": " ".join(map(str, hosts))}


def read_facts(run: RunDir) -> dict[str, Any]:
    """What exactness depends on (`exactness.gather_facts`), from the newest checkpoint; empty without one."""
    for folder in sorted(run.checkpoints.glob("step_*"), reverse=True):
        if facts := _read(folder / MANIFEST).get("facts"):
            return {key: value for key, value in facts.items() if key not in ("config", "data")}
    return {}


def describe_differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """`torch was 2.12, is 2.13` for each key of two environments that is not the same."""
    keys = [key for key in dict.fromkeys([*before, *now]) if before.get(key) != now.get(key)]
    return [f"{key} was {before.get(key, 'not recorded')}, is {now.get(key, 'not recorded')}" for key in keys]


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_json(path) or {}
    except (OSError, ValueError):
        return {}
