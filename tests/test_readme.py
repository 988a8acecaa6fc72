"""What the README shows works as it stands there."""

import json
import re
from pathlib import Path

import pytest
import yaml

from runner.cli import run
from runner.contract import check_method
from runner.experiment import load_experiment
from runner.named import resolve_trials
from runner.new import make
from runner.profile import load_profile
from runner.sweep import trials
from tests.experiments import run_cli, write_experiment
from tests.packages import install_project, lent

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """An installed package of somebody's own with the README's method in place of what `runner new` wrote."""
    root = tmp_path_factory.mktemp("lab")
    make("method", "two_views", Path("my_lab"), root)
    (source,) = blocks("python")
    (root / "my_lab" / "two_views.py").write_text(source)
    install_project(root)
    with pytest.MonkeyPatch.context() as patch, lent(root, patch):
        patch.chdir(root)
        yield root


@pytest.mark.ddp
def test_the_method_keeps_the_contract_of_methods(lab):
    check_method({"name": "two_views", "width": 16})


def test_the_method_is_debugged_swept_and_evaluated(lab, capfd):
    """Each trial of the sweep is a job of its own, which finds the method as any other process does."""
    assert run(["debug", "experiments/two_views/debug.yaml"]) == 0
    assert "test/knn_top1" in capfd.readouterr().out
    (lab / "site.yaml").write_text("cluster: local\nparallel: 2\n")
    words = ["experiments/two_views/debug.yaml", "train.steps=20", "sweep={grid: {method.width: [8, 16]}}"]
    done = run_cli("submit", *words, "--on", "site.yaml", "--wait")
    assert done.returncode == 0, done.stderr
    assert run(["results", "two_views-debug", "--json"]) == 0
    rows = json.loads(capfd.readouterr().out)
    assert {(row["state"], row["overrides"]["method.width"]) for row in rows} == {("done", 8), ("done", 16)}
    assert min(row["metrics"]["test/knn_top1"] for row in rows) > 0.3, "of 4 classes"


def test_the_sweep_expands(tmp_path):
    sweep = next(block for block in blocks("yaml") if block.startswith("sweep:"))
    experiment = load_experiment(write_experiment(tmp_path, sweep=yaml.safe_load(sweep)["sweep"]))
    expanded = trials(experiment)
    resolve_trials(expanded, experiment.document)
    assert len(expanded) == len({variant.trial_id for variant, _ in expanded})
    # gamma 0: one rate is excluded; gamma 1: two rates, with and without the schedule of gamma
    assert len(expanded) == (1 + 2 * 2) * 2 * 8 * 3


def test_the_site_loads(tmp_path):
    site = next(block for block in blocks("yaml") if block.startswith("cluster:"))
    (tmp_path / "site.yaml").write_text(site)
    assert load_profile(str(tmp_path / "site.yaml")).parallel == 20


def test_every_link_and_every_file_it_names_is_there():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
    for path in re.findall(r"\b(?:experiments|slurm)/[\w/]+\.yaml", README):
        assert (ROOT / path).exists() or "/two_views/" in path, path  # which `runner new` writes


@pytest.mark.parametrize("page", ["README.md", "experiments/README.md"])
def test_every_link_leads_to_a_file(page):
    folder = (ROOT / page).parent
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / page).read_text())
    assert [target for target in targets if "://" not in target and not (folder / target).exists()] == []
