"""metrics.jsonl is the truth; W&B gets a copy of it, and whatever happens to the copy, training does not notice."""

import contextlib
import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

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
from runner.wandb_mirror import choose_mode, is_logged_in
from tests.experiments import fingerprint, prepare_run, train_here
from tests.slurm_cluster import wait_for

OFFLINE = {"every_steps": 5, "wandb": {"mode": "offline", "tags": ["a tag"]}}


@pytest.fixture(autouse=True)
def nothing_leaves(tmp_path, monkeypatch):
    """A user without a login, whose W&B files are in the test's folder."""
    for name in [name for name in os.environ if name.startswith("WANDB_")] + ["NETRC"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()


@pytest.fixture(autouse=True)
def restore_process():
    """Training in this process sets what a process of its own would take with it."""
    threads, umask = torch.get_num_threads(), os.umask(0o022)
    os.umask(umask)
    yield
    os.umask(umask)
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


def read_wandb(path: Path) -> list:
    """The records of a .wandb file: protocol buffers in LevelDB's log format, after 7 bytes of header."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts, records = path.read_bytes(), 7, b"", []
    while True:
        left = 32768 - at % 32768
        if left < 7:  # no room for the head of a frame: the rest of the block is empty
            at += left
            continue
        if at + 7 > len(data):
            return records
        _, length, kind = struct.unpack_from("<IHB", data, at)
        at += 7 + length
        if kind == 0 or at > len(data):  # torn by a kill
            return records
        parts += data[at - length : at]
        if kind in (1, 4):  # whole, or the last part
            record = Record()
            record.ParseFromString(parts)
            records.append(record)
            parts = b""


def attempts_of(run: RunDir) -> list[list]:
    """The records of each W&B run of a trial, the oldest first."""
    return [read_wandb(path) for path in sorted(run.path.glob("wandb/offline-run-*/*.wandb"))]


def history(records: list) -> list[dict]:
    """The rows that were logged, with their steps."""
    rows = []
    for record in records:
        if record.WhichOneof("record_type") == "history":
            items = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            rows.append({"step": items.pop("_step"), **{key: items[key] for key in items if key[0] != "_"}})
    return rows


def without_times(rows: list[dict]) -> list[dict]:
    return [{key: row[key] for key in row if key not in ("time", "attempt")} for row in rows]


def processes_of_wandb() -> list[psutil.Process]:
    """W&B's processes below this one."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "wandb" in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def services_of_wandb() -> list[psutil.Process]:
    found = []
    for process in processes_of_wandb():
        with contextlib.suppress(psutil.NoSuchProcess, IndexError):
            if "wandb-core" in process.cmdline()[0]:
                found.append(process)
    return found


@pytest.mark.slow
def test_an_interrupted_trial_is_one_run_with_every_step(tmp_path):
    straight = prepare_run(tmp_path / "straight")
    train_here(straight)
    run = prepare_run(tmp_path / "mirrored", tracking=OFFLINE, rehearse={"at_step": 12})
    assert train_here(run) == 2
    assert fingerprint(run) == fingerprint(straight), "the mirror touches nothing"
    files = attempts_of(run)
    assert len(files) == 2
    for records in files:
        kinds = [record.WhichOneof("record_type") for record in records]
        assert "exit" in kinds, "closed before the requeue"
        (about,) = [record.run for record in records if record.WhichOneof("record_type") == "run"][:1]
        assert about.run_id == f"tiny-{run.trial}" and about.run_group == about.project == "tiny"
        assert about.display_name == run.trial and list(about.tags) == ["a tag"]
        config = {item.key: item.value_json for item in about.config.update}
        assert {"method", "encoder", "data", "train"} <= set(config) and '"steps":20' in config["train"].replace(
            " ", ""
        )
    rows = [row for records in files for row in history(records)]
    assert [row["step"] for row in rows] == [5, 10, 15, 20]
    assert rows == without_times(read_rows(run.metrics)) == without_times(read_rows(straight.metrics))
    assert not processes_of_wandb()


def at_step(monkeypatch, step: int, action) -> None:
    """Have a running trial do something before one of its steps."""
    monkeypatch.setattr(SCL, "before_fit_step", lambda self, now: action() if now == step else None)


@pytest.fixture
def with_service(monkeypatch):
    """Do something to W&B's service once it has begun to write, in the middle of training."""

    def arrange(run: RunDir, action) -> None:
        def act():
            wait_for(lambda: list(run.path.glob("wandb/*/*.wandb")), 60, "W&B to write")
            # For a moment there are two: the service is a child of one that ends.
            (service,) = wait_for(services_of_wandb, 30, "one service", until=lambda found: len(found) == 1)
            action(service)

        at_step(monkeypatch, 12, act)

    yield arrange
    for process in processes_of_wandb():
        process.kill()


def remote_addresses(processes):
    """Where these processes are connected to; one that has just ended is connected to nothing."""
    found = set()
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            found |= {connection.raddr.ip for connection in process.net_connections("inet") if connection.raddr}
    return found


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_a_dead_service_costs_nothing(tmp_path, with_service, signum):
    """TERM is what Slurm sends to every process of a job; the service dies of it and takes its rows along."""
    run = prepare_run(tmp_path, tracking=OFFLINE)

    def end(service: psutil.Process) -> None:
        assert remote_addresses(processes_of_wandb()) <= {"127.0.0.1", "::1"}
        service.send_signal(signum)
        wait_for(processes_of_wandb, 30, "the service to end", until=lambda left: service not in left)

    with_service(run, end)
    assert train_here(run) == 1
    rows = read_rows(run.metrics)
    assert [row["step"] for row in rows] == [5, 10, 15, 20]
    copies = [history(records) for records in attempts_of(run)]
    assert len(copies) == 2, "begun again"
    assert without_times(rows) == copies[-1], "with every row"


@pytest.mark.slow
def test_a_service_that_hangs_is_left_behind(tmp_path, with_service, monkeypatch, capfd):
    monkeypatch.setattr(tracking, "CLOSE_TIMEOUT_SECONDS", 1)
    run = prepare_run(tmp_path, tracking=OFFLINE)
    with_service(run, lambda service: service.suspend())
    assert train_here(run) == 1
    assert [row["step"] for row in read_rows(run.metrics)] == [5, 10, 15, 20] and run.result.exists()
    assert "W&B mirror did not end within 1 s" in capfd.readouterr().out
    assert not processes_of_wandb()


@pytest.mark.slow
def test_a_killed_trainer_leaves_a_whole_mirror(tmp_path):
    run = prepare_run(tmp_path, tracking=OFFLINE, rehearse={"at_step": 12, "signal": "KILL"})
    code = "import sys; from pathlib import Path; from runner.rundir import RunDir; from tests.experiments import *"
    code += "; train_here(RunDir(Path(sys.argv[1])))"
    done = subprocess.run([sys.executable, "-c", code, str(run.path)], capture_output=True, timeout=60)
    assert done.returncode == -signal.SIGKILL
    wait_for(
        lambda: [record.WhichOneof("record_type") for records in attempts_of(run) for record in records],
        60,
        "the mirror to end",
        until=lambda kinds: "exit" in kinds,
    )
    assert [row["step"] for row in history(attempts_of(run)[0])] == [5, 10]


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


def write_netrc(path: Path, host: str) -> None:
    path.write_text(f"machine {host}\n  login user\n  password {'0' * 40}\n")
    path.chmod(0o600)


def test_auto_is_online_for_who_is_logged_in(tmp_path, monkeypatch):
    assert not is_logged_in() and choose_mode("auto") == "offline"
    assert choose_mode("online") == "online" and choose_mode("offline") == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert is_logged_in() and choose_mode("auto") == "online" and choose_mode("offline") == "offline"


def test_a_netrc_is_a_login_for_its_own_server(tmp_path, monkeypatch):
    write_netrc(tmp_path / "home" / ".netrc", "api.wandb.ai")
    assert choose_mode("auto") == "online"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org:8080/path")
    assert choose_mode("auto") == "offline"
    write_netrc(tmp_path / "elsewhere", "wandb.example.org")
    monkeypatch.setenv("NETRC", str(tmp_path / "elsewhere"))
    assert choose_mode("auto") == "online"
    (tmp_path / "elsewhere").write_text("machine")
    assert choose_mode("auto") == "offline", "a broken file is no login"
