"""How a trial is trained again, and what is said of the outcome; that the bits are the same: test_code_snapshot.py."""

import json
import shlex
import shutil

import pytest
import yaml

from runner.cli import run as cli
from runner.errors import ConfigError
from runner.files import read_json, write_json
from runner.reproduce import Comparison, compare, first_difference, read_recipe, reproduce
from runner.rundir import RunDir
from tests.experiments import prepare_run
from tests.trials import make_trial, slurm_job, start

ROWS = [{"step": step, "time": 1.0 * step, "attempt": 1, "train/loss": 1 / (1 + step)} for step in (2, 4)]
FACTS = {"torch": "2.13", "processor": "A", "code": "0123456789ab"}


@pytest.fixture
def run(tmp_path):
    """A real config, and a snapshot that nobody will import."""
    run = prepare_run(tmp_path, train={"seed": 3}, resources={"ranks": 2})
    code = run.path.parents[1] / ".code" / "0123456789ab"
    (code / "runner").mkdir(parents=True)
    provenance = {"snapshot": {"code": code.name}, "folder": str(tmp_path), "executable": "/no/such/python"}
    write_json(
        run.provenance,
        provenance | {"packages": {"torch": "1.0"}, "git": {"sha": "c0ffee", "dirty": True, "diff": "diff.patch"}},
    )
    return run


def test_the_command_is_complete_and_leaves_the_trial_alone(run, tmp_path, capsys):
    assert cli(["reproduce", run.trial[:4], "--root", str(tmp_path / "runs")]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[:2] == [f"# tiny/{run.trial}: 2 ranks, seed 3", "# of commit c0ffee, changed since (diff.patch)"]
    assert "# here torch was 1.0, is 2." in told[2]
    export, folder, command = told[-3:]
    code = tmp_path / "runs" / ".code" / "0123456789ab"
    assert export == f"export PYTHONPATH={code} PYTHONSAFEPATH=1" and folder == f"cd {tmp_path}"
    python, *words = shlex.split(command)
    assert python != "/no/such/python", "it is gone, so ours"
    assert words[:4] == ["-m", "runner", "debug", str(run.config)]
    assert words[4:] == [
        *("tracking.wandb=null", "rehearse=null", "--ranks", "2", "--root"),
        str(tmp_path / "runs" / ".reproduce" / "tiny" / run.trial),
    ]


def test_what_ran_on_a_cluster_can_do_so_again(run, tmp_path):
    with run.jobs.open("w") as file:
        file.write(json.dumps({"cluster": "slurm", "submission": "/runs/tiny/.submissions/1"}) + "\n")
    last = read_recipe(run, tmp_path / "there").lines()[-1]
    assert f"-m runner submit {run.config}" in last and "--on /runs/tiny/.submissions/1/profile.yaml" in last
    assert last.startswith("# ") and last.endswith(f"--root {tmp_path / 'there'}")


def test_without_a_snapshot_the_commit_is_told_and_nothing_is_run(run, capsys):
    provenance = read_json(run.provenance) or {}
    write_json(run.provenance, provenance | {"snapshot": None})
    (run.path / "diff.patch").write_text("x")
    recipe = read_recipe(run)
    assert (
        f"# it has no snapshot of its code: put that back yourself, then git apply {run.path / 'diff.patch'}"
        in recipe.lines()
    )
    with pytest.raises(ConfigError, match="it has no snapshot of its code"):
        reproduce(recipe)
    shutil.rmtree(run.path.parents[1] / ".code")
    write_json(run.provenance, provenance)
    with pytest.raises(ConfigError, match="its code is gone"):
        read_recipe(run)


def finished(tmp_path, name, fingerprint, loss=None, processor="A", **more) -> RunDir:
    rows = [{**row, "attempt": len(name)} for row in ROWS]
    if loss is not None:
        rows[-1]["train/loss"] = loss
    run = make_trial(tmp_path, name, metrics=rows, checkpoints=["step_00000004.00001"], **more)
    write_json(run.checkpoints / "step_00000004.00001" / "manifest.json", {"facts": FACTS | {"processor": processor}})
    if fingerprint is not None:
        write_json(run.result, {"state": "done", "step": 4, "metrics": {}, "fingerprint": fingerprint})
    return run


def test_equal_means_the_fingerprint(tmp_path):
    run, again = finished(tmp_path, "a", "f00d"), finished(tmp_path, "again", "f00d", processor="B")
    assert compare(run, again) == Comparison(True, "equal in every bit after 4 steps: f00d")


def test_what_is_not_equal_comes_with_the_facts_that_differ(tmp_path):
    run = finished(tmp_path, "a", "f00d", attempts=[start(1), {**start(2), "exact": "no, because torch was 1, is 2"}])
    found = compare(run, finished(tmp_path, "again", "beef", loss=0.5, processor="B"))
    assert not found.equal and found.text == "NOT equal: at step 4 train/loss was 0.2, is 0.5"
    assert "processor was A, is B" in found.reasons
    assert found.reasons[-1] == "attempt 2 went on with exact: no, because torch was 1, is 2"
    found = compare(finished(tmp_path, "b", "f00d"), finished(tmp_path, "same", "beef"))
    assert found.text == "NOT equal: the metrics are, the fingerprints are not"
    assert found.reasons == ("nothing that is recorded differs",)


def test_a_trial_that_is_not_done_is_compared_as_far_as_it_is(tmp_path):
    run = finished(tmp_path, "a", None)
    assert compare(run, finished(tmp_path, "again", "f00d")).equal
    assert not compare(run, finished(tmp_path, "other", "f00d", loss=0.5)).equal


def test_the_first_difference_of_metrics():
    assert first_difference(ROWS, [{**row, "time": 9, "attempt": 7} for row in ROWS]) is None
    assert first_difference(ROWS, ROWS[:1]) == "there is no step 4"
    nan = [{"step": 2, "a": float("nan")}]
    assert first_difference(nan, [{"step": 2, "a": float("nan")}]) is None
    assert first_difference(nan, [{"step": 2}]) == "at step 2 a was nan, is None"


def test_a_missing_trial_is_one_line(tmp_path, capsys):
    make_trial(tmp_path, "aa11", job=slurm_job())
    assert cli(["reproduce", "zz", "--root", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    (tmp_path / "exp" / "aa11" / "config.yaml").write_text(yaml.safe_dump({"name": "exp"}))
    assert cli(["reproduce", "aa", "--root", str(tmp_path)]) == 2
    assert "is missing" in capsys.readouterr().err
