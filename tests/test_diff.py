"""What sets two trials apart is told in full, and nothing else."""

import json
import os

import pytest
from rich.console import Console

from runner.cli import run as cli
from runner.code_snapshot import read_package, take
from runner.diff import diff_trials, print_diff
from runner.errors import ConfigError
from runner.files import write_json
from tests.trials import end, make_trial, start

OVERRIDES = {"method": {"name": "scl", "gamma": 0.0}, "resources": {"ranks": 1}}


@pytest.fixture
def pair(tmp_path):
    """Two trials that differ in everything, with two snapshots that differ in one file of two."""
    package = tmp_path / "checkout" / "runner"
    package.mkdir(parents=True)
    (package / "same.py").write_text("a = 1\n")
    runs = []
    for place, gamma in enumerate([0.0, 1.0]):
        (package / "scl.py").write_text(f"gamma = {gamma}\nalpha = 1\n")
        run = make_trial(
            tmp_path / "runs",
            "ab"[place] * 4,
            overrides={**OVERRIDES, "method": {"name": "scl", "gamma": gamma}},
            attempts=[start(1), end(1, 4, "preempted", True), start(2, 4), end(2, 500, "done")][2 * place :],
            result={"test/knn_top1": 0.5 + place / 4, "train/loss": 1.5, f"only/{place}": 1.0},
            checkpoints=["step_00000500.00002"],
        )
        home = take(tmp_path / "runs", package)
        packages = {"torch": f"2.1{place}", "numpy": "2.4"}
        git = {"sha": f"c0ffee{place}", "dirty": False}
        provenance = {"python": "3.11.7", "packages": packages, "git": git, "snapshot": {"code": home.name}}
        write_json(run.provenance, provenance)
        write_json(run.checkpoints / "step_00000500.00002" / "manifest.json", {"facts": {"device": f"GPU {place}"}})
        runs.append(run)
    return runs


def test_each_difference_with_both_values(pair):
    found = diff_trials(*pair)
    assert found["trials"] == ["exp/aaaa", "exp/bbbb"]
    assert found["config"] == {"method.gamma": [0.0, 1.0]}
    assert found["environment"] == {"torch": ["2.10", "2.11"], "device": ["GPU 0", "GPU 1"]}
    assert found["metrics"] == {
        "test/knn_top1": [0.5, 0.75, 0.25],
        "only/0": [1.0, None, None],
        "only/1": [None, 1.0, None],
    }
    assert found["attempts"] == {"attempts": [2, 1], "ended preempted": [1, None]}
    code = found["code"]
    assert code["same"] is False and code["commits"] == ["c0ffee0", "c0ffee1"]
    assert code["files"] == [{"file": "scl.py", "added": 1, "removed": 1}]
    assert "-gamma = 0.0\n+gamma = 1.0\n alpha = 1\n" in code["patch"]


def test_a_trial_does_not_differ_from_itself(pair):
    found = diff_trials(pair[0], pair[0])
    assert not any(found[part] for part in ("config", "environment", "metrics", "attempts"))
    assert found["code"]["same"] is True and found["code"]["patch"] == ""


def test_a_config_that_is_cut_short_is_told_and_not_compared(pair):
    pair[1].config.write_text(pair[1].config.read_text()[:40])
    with pytest.raises(ConfigError, match=r"^exp/bbbb: config\.yaml is cut short$"):
        diff_trials(*pair)


def test_what_the_last_attempt_ran_counts(pair):
    """Its code was changed by a retry; the snapshot that the first one ran is still compared."""
    first, second = pair
    names = diff_trials(*pair)["code"]["code"]
    second.attempts.write_text(json.dumps({**start(1), "code": names[0]}) + "\n")
    assert diff_trials(first, second)["code"]["same"] is True


def test_code_that_nobody_kept_is_not_called_the_same(pair):
    first, second = pair
    write_json(second.provenance, {"git": None})
    assert diff_trials(first, second)["code"]["same"] is None


def test_for_people_and_for_programs(pair, tmp_path, capsys):
    words = ["diff", "aaaa", "exp/bb", "--root", str(tmp_path / "runs")]
    assert cli([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == diff_trials(*pair)
    assert cli(words) == 0
    told = capsys.readouterr().out
    assert [line.split() for line in told.splitlines() if "test/knn_top1" in line] == [
        ["test/knn_top1", "0.5", "0.75", "0.25"]
    ]
    assert "  scl.py +1 -1\n" in told and "+gamma" not in told and "environment" in told
    assert cli([*words, "--code"]) == 0
    assert "-gamma = 0.0\n+gamma = 1.0\n" in capsys.readouterr().out
    assert cli(["diff", "aaaa", "aaaa", "--root", str(tmp_path / "runs")]) == 0
    told = capsys.readouterr().out
    assert told.splitlines()[0] == "config: the same" and "metrics: the same" in told


def test_a_narrow_terminal_breaks_no_number(pair, monkeypatch):
    document = {**diff_trials(*pair), "metrics": {"test/linear_top1": [0.8375123, -1.82e-05, None], "b": [1, 2, 1]}}
    with open(os.devnull, "w") as nowhere:
        console = Console(width=40, file=nowhere, record=True)
        print_diff(document, console)
    lines = [line.rstrip() for line in console.export_text().splitlines()]
    at = lines.index("metrics")
    assert lines[at + 1 : at + 5] == [
        "  test/linear_top1",
        "    exp/aaaa    0.8375",
        "    exp/bbbb    -1.82e-05",
        "    difference",
    ]


def test_a_snapshot_that_is_gone_leaves_the_names(pair, tmp_path):
    names = diff_trials(*pair)["code"]["code"]
    package = tmp_path / "runs" / ".code" / names[0] / "runner"
    assert read_package(package)
    package.rename(package.with_name("away"))
    code = diff_trials(*pair)["code"]
    assert code["same"] is False and code["code"] == names and code["files"] == []
