"""What the README shows works as it stands there."""

import re
from pathlib import Path

import pytest
import yaml

import runner.methods
from runner.experiment import load_experiment
from runner.files import read_json, read_rows
from runner.named import resolve_trials
from runner.profile import load_profile
from runner.sweep import trials
from tests.experiments import fingerprint, prepare_run, train_here, write_experiment

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture
def two_views(tmp_path, monkeypatch):
    """The README's method, as if its file lay in runner/methods."""
    (source,) = blocks("python")
    folder = tmp_path / "plug_ins"
    folder.mkdir()
    (folder / "two_views.py").write_text(source)
    monkeypatch.setattr(runner.methods, "__path__", [*runner.methods.__path__, str(folder)])
    monkeypatch.setattr(runner.methods.__spec__, "submodule_search_locations", [*runner.methods.__path__, str(folder)])


def test_the_method_trains_and_resumes(two_views, tmp_path):
    groups = {"method": {"name": "two_views", "width": 16}, "evaluate": {"probes": ["knn"]}}
    straight = prepare_run(tmp_path / "straight", without=("method",), **groups)
    assert train_here(straight) == 1
    cut = prepare_run(tmp_path / "cut", without=("method",), rehearse={"at_step": 7}, **groups)
    assert train_here(cut) == 2
    assert fingerprint(cut) == fingerprint(straight)
    losses = [row["train/loss"] for row in read_rows(straight.metrics)]
    assert losses[-1] < losses[0]
    assert read_json(straight.result)["metrics"]["test/knn_top1"] > 0.2


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
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", ["README.md", "experiments/README.md"])
def test_every_link_leads_to_a_file(page):
    folder = (ROOT / page).parent
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / page).read_text())
    assert [target for target in targets if "://" not in target and not (folder / target).exists()] == []
