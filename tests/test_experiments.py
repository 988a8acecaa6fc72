"""Every experiment and every site that ships loads, expands and resolves."""

from pathlib import Path

import pytest

from runner.config import load_experiment
from runner.named import resolve_trials
from runner.profile import load_profile
from runner.rundir import read_json
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
