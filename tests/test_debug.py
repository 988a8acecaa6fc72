"""`runner debug`: one trial in the foreground, on one rank or several, and how its end is told."""

import multiprocessing
import os
import signal
import subprocess
import sys

import psutil
import pytest
import torch

from runner.attempt import Attempt
from runner.cli import run as cli
from runner.debug import supervise
from runner.files import read_json, read_rows
from runner.heartbeat import read_beats
from runner.processes import Stragglers, is_running, kill
from runner.rundir import find_trials
from tests.experiments import last_step, only_trial, run_cli, write_experiment
from tests.slurm_cluster import GONE_SECONDS, wait_for

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
    # Interruptions on purpose are left out: nobody would requeue it.
    path = write_experiment(tmp_path, sweep={"seeds": [3, 4]}, rehearse={"at_step": 3}, **SMALL)
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
@pytest.mark.parametrize(
    ("victim", "words"),
    [("rank 0", ["tracking.wandb.mode=offline"]), ("rank 1", ["train.workers=1"]), ("parent", ["train.workers=1"])],
)
def test_a_kill_leaves_nothing_behind(tmp_path, victim, words):
    path = write_experiment(tmp_path, **{**SMALL, "train": {"steps": 1_000_000}})
    command = [sys.executable, "-m", "runner", "debug", str(path), *words, "--ranks", "2"]
    environment = os.environ | {"WANDB_ERROR_REPORTING": "false"}
    with (tmp_path / "said").open("w") as said:
        parent = psutil.Popen([*command, "--root", str(tmp_path / "runs")], stdout=said, stderr=said, env=environment)
    try:
        run = wait_for(lambda: find_trials(tmp_path / "runs" / ".debug" / "tiny"), 60, "the folder")[0]
        wait_for(lambda: last_step(run), 120, "step 4", until=lambda step: step >= 4)
        if "wandb" in words[0]:
            wait_for(lambda: list(run.path.glob("wandb/offline-run-*/*.wandb")), 120, "the mirror")
        family = [
            each for each in parent.children(recursive=True) if "resource_tracker" not in " ".join(each.cmdline())
        ]
        assert len(family) >= 3, "two ranks, and a mirror or workers"
        beats = read_beats(Attempt(run, 1), 2)
        os.kill(parent.pid if victim == "parent" else beats[int(victim[-1])].pid, signal.SIGKILL)
        # The command itself is not of the trial: what it takes to say what happened and to exit is its own affair.
        wait_for(
            lambda: [each for each in family if is_running(each.pid)],
            GONE_SECONDS,
            "all to go",
            until=lambda left: not left,
        )
        code = parent.wait(60)
    finally:
        kill([parent])
    assert code == (-signal.SIGKILL if victim == "parent" else 1)
    if victim != "parent":
        other = 1 - int(victim[-1])
        assert f"because of {victim}: killed" in read_json(run.crash(1, other))["error"]
        told = (tmp_path / "said").read_text() if other == 0 else run.log(1, 1).read_text()
        assert f"PeerError: because of {victim}: killed" in told and "Connection" not in told, told


@pytest.mark.slow
@pytest.mark.ddp
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_closed_pipe_ends_it_quietly(tmp_path, ranks):
    path = write_experiment(tmp_path, **SMALL, resources={"ranks": ranks})
    words = f"{sys.executable} -m runner debug {path} --root {tmp_path / 'runs'}"
    command = f"{words} | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("runner: tiny/") and done.stdout.endswith("\n141\n") and done.stderr == ""


def test_a_rank_that_is_gone_before_it_was_looked_for_is_not_waited_for():
    process = multiprocessing.get_context("spawn").Process(target=os.getpid)
    process.start()
    os.waitpid(process.pid, 0)
    assert process.is_alive(), "multiprocessing does not know: it was not the one that waited"
    supervise([process], Stragglers(patience_seconds=0.2, kill_seconds=5))
