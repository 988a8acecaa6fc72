"""Every experiment and every site that ships loads, expands and resolves."""

import re
from pathlib import Path
from typing import get_args, get_origin

import pytest
from pydantic import BaseModel

from runner import named
from runner.config import Trial
from runner.experiment import load_experiment
from runner.files import read_json
from runner.named import resolve_trials
from runner.profile import load_profile
from runner.sweep import trials
from tests.experiments import run_cli

ROOT = Path(__file__).parents[1]
EXPERIMENTS = sorted(path for path in (ROOT / "experiments").rglob("*.yaml"))
DEBUG = [path for path in EXPERIMENTS if path.stem == "debug"]
SITES = sorted((ROOT / "slurm").glob("*.yaml"))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_experiment(path):
    experiment = load_experiment(path)
    expanded = trials(experiment)
    assert expanded and len(resolve_trials(expanded, experiment.document)) == len(expanded)
    header = path.read_text().split("name:")[0]
    for word in ("?", "Run:", "Cost:", "Expect:"):
        assert word in header, f"the comment on top says no {word!r}"


@pytest.mark.parametrize("path", SITES, ids=lambda path: path.stem)
def test_site(path):
    assert load_profile(str(path)).cluster in ("local", "slurm")


@pytest.mark.slow
@pytest.mark.parametrize("path", DEBUG, ids=lambda path: path.parent.name)
def test_debug_runs(path, tmp_path):
    done = run_cli("debug", path, "--root", tmp_path)
    assert done.returncode == 0, done.stderr
    (result,) = (tmp_path / ".debug").rglob("result.json")
    assert read_json(result)["state"] == "done"


FAMILY_OF = {"method": "methods", "encoder": "encoders", "data": "data", "schedule": "schedules"}


def is_key(path: list[str]) -> bool:
    """Whether a dotted key of an experiment file exists, in some plug-in where plug-ins differ."""
    group, *rest = path
    if group in FAMILY_OF:
        configs = [named.load(FAMILY_OF[group], name).Config for name in named.names(FAMILY_OF[group])]
        return rest == ["name"] or any(has_key(config, rest) for config in configs)
    if group == "tracking" and rest[:1] and rest[0] in named.names("mirrors"):
        return not rest[1:] or has_key(named.load("mirrors", rest[0]).Config, rest[1:])
    return has_key(Trial, path)


def has_key(model: type[BaseModel], path: list[str]) -> bool:
    """Whether a model has a dotted key; what follows a mapping with free keys is not looked at."""
    if path[0] not in model.model_fields:
        return False
    annotation = model.model_fields[path[0]].annotation
    kinds = [annotation, *get_args(annotation)]
    models = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
    if not path[1:] or get_origin(annotation) is dict:
        return True
    return any(has_key(inner, path[1:]) for inner in models)


def test_every_key_of_the_tables_of_options_exists():
    tables = [line for line in (ROOT / "experiments" / "README.md").read_text().splitlines() if line.startswith("| ")]
    cells = [cell for line in tables for cell in line.split("|")[2:]]
    keys = {key for cell in cells for key in re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)(?::[^`]*)?`", cell)}
    keys = {key for key in keys if key.split(".")[0] in Trial.model_fields}
    assert len(keys) > 40
    missing = [key for key in sorted(keys) if not is_key(key.split("."))]
    assert not missing, missing
