"""metrics.jsonl is the truth; W&B gets a copy of it, and whatever happens to the copy, training does not notice."""

import contextlib
import json
import os
import signal
import socket
import time

import psutil
import pytest
import torch

from runner import tracking
from runner.attempt import SupersededError, claim
from runner.config import TrackingConfig
from runner.files import append_row, read_rows
from runner.methods.scl import SCL
from runner.rundir import RunDir
from runner.tracking import Tracker
from tests.experiments import fingerprint, prepare_run, train_here
from tests.mirror_files import (
    exit_code,
    history,
    kinds,
    pieces_of,
    processes_of_mirrors,
    read_piece,
    read_scalars,
    services_of_wandb,
    without_times,
)
from tests.slurm_cluster import wait_for

OFFLINE = {"every_steps": 5, "wandb": {"mode": "offline", "tags": ["a tag"]}}


pytestmark = pytest.mark.usefixtures("no_login")


@pytest.fixture(autouse=True)
def restore_process():
    """Training in this process sets what a process of its own would take with it."""
    threads, umask = torch.get_num_threads(), os.umask(0o022)
    os.umask(umask)
    yield
    os.umask(umask)
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A trial without mirrors that nothing happened to."""
    run = prepare_run(tmp_path_factory.mktemp("straight"))
    assert train_here(run) == 1
    return run


@pytest.mark.slow
def test_an_interrupted_trial_is_one_run_with_every_step(tmp_path, straight):
    tracking = {**OFFLINE, "tensorboard": {}}
    run = prepare_run(tmp_path, tracking=tracking, rehearse={"at_step": 12})
    assert train_here(run) == 2
    assert fingerprint(run) == fingerprint(straight), "the mirrors touch nothing"
    rows = without_times(read_rows(straight.metrics))
    assert [row["step"] for row in rows] == [5, 10, 15, 20] and without_times(read_rows(run.metrics)) == rows
    records = read_piece(run.path / "wandb")
    assert history(records) == rows, "the piece of the last attempt is whole"
    (earlier,) = [read_piece(run.path / "wandb" / "earlier")]
    assert history(earlier) == rows[:2] and {"preempting", "exit"} <= set(kinds(earlier)), "closed before the requeue"
    assert exit_code(records) == 0 and "preempting" not in kinds(records)
    assert read_scalars(run)["train/loss"] == [(row["step"], pytest.approx(row["train/loss"])) for row in rows]
    assert not processes_of_mirrors()


def at_step(monkeypatch, step: int, action) -> None:
    """Have a running trial do something before one of its steps."""
    monkeypatch.setattr(SCL, "before_fit_step", lambda self, now: action() if now == step else None)


@pytest.fixture
def with_service(monkeypatch):
    """Do something to W&B's service once it has begun to write, in the middle of training."""

    def arrange(run: RunDir, action) -> None:
        def act():
            wait_for(lambda: pieces_of(run), 60, "W&B to write")
            # For a moment there are two: the service is a child of one that ends.
            (service,) = wait_for(services_of_wandb, 30, "one service", until=lambda found: len(found) == 1)
            action(service)

        at_step(monkeypatch, 12, act)

    yield arrange
    for process in processes_of_mirrors():
        process.kill()


def remote_addresses(processes):
    """Where these processes are connected to; one that has just ended is connected to nothing."""
    found = set()
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            found |= {connection.raddr.ip for connection in process.net_connections("inet") if connection.raddr}
    return found


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.nightly)])
def test_a_dead_service_costs_nothing(tmp_path, with_service, signum, straight):
    """TERM is what Slurm sends to every process of a job; the service dies of it and takes its rows along."""
    run = prepare_run(tmp_path, tracking=OFFLINE)

    def end(service: psutil.Process) -> None:
        assert remote_addresses(processes_of_mirrors()) <= {"127.0.0.1", "::1"}
        service.send_signal(signum)
        wait_for(processes_of_mirrors, 30, "the service to end", until=lambda left: service not in left)

    with_service(run, end)
    assert train_here(run) == 1
    rows = read_rows(run.metrics)
    assert [row["step"] for row in rows] == [5, 10, 15, 20]
    assert fingerprint(run) == fingerprint(straight)
    assert list((run.path / "wandb" / "earlier").iterdir()), "begun again"
    assert history(read_piece(run.path / "wandb")) == without_times(rows), "with every row"


@pytest.mark.slow
def test_a_service_that_hangs_is_left_behind(tmp_path, with_service, monkeypatch, capfd):
    monkeypatch.setattr(tracking, "CLOSE_TIMEOUT_SECONDS", 1)
    run = prepare_run(tmp_path, tracking=OFFLINE)
    with_service(run, lambda service: service.suspend())
    assert train_here(run) == 1
    assert [row["step"] for row in read_rows(run.metrics)] == [5, 10, 15, 20] and run.result.exists()
    assert "mirror wandb did not end within 1 s" in capfd.readouterr().out
    assert not processes_of_mirrors()


@pytest.mark.slow
def test_a_server_that_never_answers_costs_no_step(tmp_path, monkeypatch, capfd, straight):
    monkeypatch.setattr(tracking, "CLOSE_TIMEOUT_SECONDS", 1)
    monkeypatch.setenv("WANDB_API_KEY", "f" * 40)
    run = prepare_run(tmp_path, tracking={"every_steps": 5, "wandb": {"mode": "online"}}, rehearse={"at_step": 12})
    with socket.create_server(("127.0.0.1", 0)) as hole:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{hole.getsockname()[1]}")
        assert train_here(run) == 2
    assert fingerprint(run) == fingerprint(straight)
    assert without_times(read_rows(run.metrics)) == without_times(read_rows(straight.metrics))
    assert "mirror wandb did not end within 1 s" in capfd.readouterr().out
    assert not processes_of_mirrors()


def test_rows_that_will_come_again_are_taken_back(tmp_path):
    run = RunDir(tmp_path)
    first = Tracker(claim(run), TrackingConfig())
    first.begin(-1)
    for step in (5, 10, 15):
        first.write(step, {"train/loss": float(step)})
    with run.metrics.open("a") as file:
        file.write('{"step": 20, "ti')
    second = Tracker(claim(run), TrackingConfig())
    second.begin(10)
    second.write(15, {"train/loss": 15.0, "test/knn_top1": 0.5})
    second.write(20, {"train/loss": 20.0})
    second.close()
    rows = read_rows(run.metrics)
    assert [(row["step"], row["attempt"]) for row in rows] == [(5, 1), (10, 1), (15, 2), (20, 2)]
    assert all(abs(row["time"] - time.time()) < 60 for row in rows)
    assert second.last_values() == {"train/loss": 20.0, "test/knn_top1": 0.5}
    with pytest.raises(SupersededError):
        first.write(20, {"train/loss": 0.0})
    assert len(read_rows(run.metrics)) == 4


def test_nothing_to_take_back_leaves_the_file_alone(tmp_path):
    run = RunDir(tmp_path)
    append_row(run.metrics, {"step": 5, "time": 0, "attempt": 1, "train/loss": 1.0})
    before = run.metrics.stat()
    Tracker(claim(run), TrackingConfig()).begin(5)
    after = run.metrics.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_what_is_no_row_goes_and_missing_rows_are_told(tmp_path, capsys):
    run = RunDir(tmp_path)
    rows = [{"step": step, "time": 0, "attempt": 1, "train/loss": 0.1} for step in (5, 10)]
    lines = [json.dumps(row, separators=(",", ":")) for row in rows]
    run.metrics.write_bytes("\n".join([lines[0], "{}", "[1]", "garbage", lines[1], '{"step": 15']).encode() + b"\xff")
    Tracker(claim(run), TrackingConfig()).begin(10)
    assert run.metrics.read_text() == "".join(f"{line}\n" for line in lines) and capsys.readouterr().out == ""
    Tracker(claim(run), TrackingConfig()).begin(20)
    assert capsys.readouterr().out == "runner: metrics.jsonl ends at step 10, though there were rows up to step 20\n"
    run.metrics.write_bytes(b"")
    Tracker(claim(run), TrackingConfig()).begin(20)
    assert capsys.readouterr().out == "runner: metrics.jsonl has no rows, though there were rows up to step 20\n"
