"""A plan in a file: looked at by one person or at one time, applied by another or later, if it is still the same."""

import json
import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from runner.errors import ConfigError
from runner.experiment import Change
from runner.files import replacing_output
from runner.plan import Item, Plan
from runner.rundir import RunDir

KIND = "runner plan 1"


@dataclass(frozen=True)
class PlanFile:
    """A plan, and what it was made from."""

    experiment: Path
    overrides: list[str]
    profile: str
    """The path of its file."""

    root: Path
    plan: Plan
    folder: Path
    """Where it was made: what relative paths of the experiment are relative to."""


def write_plan_file(path: Path, file: PlanFile) -> None:
    """JSON with the SHA-256 of all that it says."""
    content = {
        "kind": KIND,
        "experiment": str(file.experiment),
        "overrides": file.overrides,
        "profile": file.profile,
        "root": str(file.root),
        "folder": str(file.folder),
        "plan": file.plan.as_json(),
    }
    with replacing_output(path) as out:
        out.write(json.dumps({**content, "sha256": _digest(content)}, indent=1).encode() + b"\n")


def is_plan_file(path: Path) -> bool:
    """Whether a file is a plan, whole or not; an experiment may be JSON, too."""
    try:
        with path.open("rb") as file:
            return re.match(rb'\s*{\s*"kind":\s*"runner plan', file.read(200)) is not None
    except OSError:
        return False


def read_plan_file(path: Path) -> PlanFile:
    """Raises: ConfigError for a file that is damaged, or was edited."""
    try:
        content = json.loads(path.read_bytes())
        told = content.pop("sha256")
        if content["kind"] != KIND:
            raise ConfigError(f"{path}: is a {content['kind']}, and this program reads {KIND}; plan again")
        if told != _digest(content):
            raise ConfigError(f"{path}: does not have its sha256, so it was changed since it was written; plan again")
        root = Path(content["root"])
        plan = _read_plan(content["plan"], root)
        folder = Path(content["folder"])
        return PlanFile(Path(content["experiment"]), content["overrides"], content["profile"], root, plan, folder)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(f"{path}: is no whole plan; plan again") from None


def _read_plan(content: dict[str, Any], root: Path) -> Plan:
    folder = root / content["experiment"]
    items = tuple(
        Item(
            RunDir(folder / entry["trial"]),
            entry["mark"],
            entry["state"],
            entry["action"],
            entry["why"],
            entry["overrides"],
            tuple(Change(*change) for change in entry["changes"]),
            entry["job"],
        )
        for entry in content["items"]
    )
    return Plan(content["experiment"], items, content["settings"], content["profile"])


def _digest(content: dict[str, Any]) -> str:
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
