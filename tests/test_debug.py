"""`runner debug`: one trial in the foreground, on one rank or several, and how its end is told."""

import os
import subprocess
import sys

import pytest
import torch

from runner.cli import run as cli
from runner.rundir import read_json, read_rows
from tests.experiments import only_trial, run_cli, write_experiment

SMALL = {
    "data": {"limit": 128},
    "train": {"steps": 12},
    "schedule": {"warmup_steps": 0},
    "tracking": {"every_steps": 2},
}


@pytest.fixture(autouse=True)
def restore_process():
    """Training in this process sets what a process of its own would take with it."""
    threads, umask = torch.get_num_threads(), os.umask(0o022)
    os.umask(umask)
    yield
    os.umask(umask)
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


def test_the_first_trial_runs_afresh_each_time(tmp_path, capfd):
    path = write_experiment(tmp_path, sweep={"seeds": [3, 4]}, **SMALL)
    for _ in range(2):
        assert cli(["debug", str(path), "optimizer.lr=0.01", "--steps", "4", "--root", str(tmp_path / "runs")]) == 0
    run = only_trial(tmp_path / "runs" / ".debug")
    assert run.overrides.read_text() == "train.seed: 3\n" and "lr: 0.01\n" in run.config.read_text()
    assert [row["step"] for row in read_rows(run.metrics)] == [2, 4] and read_json(run.result)["steps"] == 12
    assert len(run.attempt_rows()) == 2, "the second time nothing is left of the first"
    assert "step 4/4" in capfd.readouterr().out, "to the terminal"
    assert cli(["status", "--root", str(tmp_path / "runs")]) == 0
    assert "no trials" in capfd.readouterr().out, "it is no trial of the experiment"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--ranks", "2", "--pdb"], 2, "--pdb: needs one rank, the trial has resources.ranks=2; add --ranks 1"),
        (["init_from=nowhere.pt"], 2, "override init_from=nowhere.pt: init_from: nowhere.pt does not exist"),
        (["optimizer.lr=1e30", "train.max_grad_norm=null"], 1, "NonFiniteLossError: the loss became"),
    ],
    ids=["pdb", "user error", "failure"],
)
def test_how_one_rank_fails(tmp_path, capfd, words, code, message):
    assert cli(["debug", str(write_experiment(tmp_path, **SMALL)), *words, "--root", str(tmp_path / "runs")]) == code
    error = capfd.readouterr().err
    assert message in error and ("Traceback" in error) == (code == 1)


@pytest.mark.slow
@pytest.mark.ddp
@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["init_from=nowhere.pt"], 2, "init_from: nowhere.pt does not exist"),
        (["optimizer.lr=1e30", "train.max_grad_norm=null"], 1, "failed first: NonFiniteLossError: the loss became"),
    ],
    ids=["user error", "failure"],
)
def test_how_several_ranks_fail(tmp_path, words, code, message):
    path = write_experiment(tmp_path, **SMALL)
    done = run_cli("debug", path, *words, "--ranks", 2, "--root", tmp_path / "runs")
    assert done.returncode == code and message in done.stderr, done.stderr


@pytest.mark.slow
@pytest.mark.ddp
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_closed_pipe_ends_it_quietly(tmp_path, ranks):
    path = write_experiment(tmp_path, **SMALL, resources={"ranks": ranks})
    words = f"{sys.executable} -m runner debug {path} --root {tmp_path / 'runs'}"
    command = f"{words} | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("runner: tiny/") and done.stdout.endswith("\n141\n") and done.stderr == ""
