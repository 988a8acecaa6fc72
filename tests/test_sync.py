"""`runner sync`: what W&B, or a folder, does not have of trials gets there, once, from metrics.jsonl alone."""

import os
import socket
import subprocess
import sys
import threading
from contextlib import AbstractContextManager
from pathlib import Path

import psutil
import pytest

from runner import sync as syncing
from runner.errors import ConfigError, RunnerError
from runner.files import read_rows, write_json
from runner.lock import locked
from runner.rundir import RunDir
from runner.sink import MetricRow
from runner.sync import Destination, Standing, decide, read_standing, sync
from runner.wandb_note import read_note
from tests.experiments import prepare_run, run_cli
from tests.mirror_files import about, config, exit_code, history, kinds, read_piece, summary, without_times
from tests.mirrors.test_wandb import write_rows
from tests.wandb_service import login, serving

ROWS = (MetricRow(5, 0.0, {"a": 1.0}),)


@pytest.fixture(autouse=True)
def own_service(no_login):
    """W&B's own process ends with the test, which is still the user that it was started by."""
    yield
    if "wandb" in sys.modules:
        sys.modules["wandb"].teardown()


@pytest.fixture
def said():
    return []


def finish(run: RunDir) -> None:
    metrics = {"train/loss": 0.05, "test/knn_top1": 0.75}
    write_json(run.result, {"state": "done", "step": 20, "metrics": metrics, "fingerprint": "f", "attempts": 2})


@pytest.mark.parametrize(
    ("standing", "words"),
    [
        (Standing(ROWS, "interrupted", "d", None), None),
        (Standing(ROWS, "done", "d", "an earlier one"), None),
        (Standing(ROWS, "done", "d", "d"), "nothing new"),
        (Standing(ROWS, "interrupted", "d", None, has_sender=True), "another process sends it"),
        (Standing((), "interrupted", "d", None), "has no rows yet"),
        (Standing((), "done", "d", None), None),
    ],
)
def test_what_is_sent(standing, words):
    assert decide(standing) == words


@pytest.mark.slow
def test_a_trial_without_wandb_is_sent_once_and_then_what_is_new(tmp_path, monkeypatch, said):
    run = prepare_run(tmp_path)
    write_rows(run, range(5, 15, 5), 1)
    with pytest.raises(ConfigError, match=r"sync: no login for https://api\.wandb\.ai; run `wandb login`"):
        sync([run], Destination())
    to = Destination(project="p", entity="a-team")
    with serving() as service:
        login(monkeypatch, service)
        assert sync([run], to, dry_run=True, say=said.append) == 1 and not service.asked
        assert said.pop(0) == f"tiny/{run.trial}: would send up to 2 rows, interrupted"
        assert sync([run], to) == 1
        (served,) = service.runs.values()
        assert [row["step"] for row in served.rows] == [5, 10] and served.ends == ["preempted"]
        asked = len(service.asked)
        assert sync([run], to, say=said.append) == 0 and len(service.asked) == asked
        assert said[-2:] == [
            f"tiny/{run.trial}: nothing new",
            f"0 trials of 1 sent; {service.url}/a-team/p/groups/tiny",
        ]
        write_rows(run, range(15, 25, 5), 2)
        finish(run)
        assert sync([run], to, say=said.append) == 1 and said[-2] == f"tiny/{run.trial}: sent 2 of 4 rows, done"
        # Trained anew, it says what it came to from its first step on, and the old run stays.
        run.path.rename(tmp_path / "before")
        anew = prepare_run(tmp_path, nonce="1a2b3c4d")
        assert anew == run
        write_rows(anew, range(5, 10, 5), 1)
        assert sync([anew], to, say=said.append) == 1 and said[-2] == f"tiny/{run.trial}: sent 1 of 1 row, interrupted"
    second = service.runs[f"tiny-{run.trial}-1a2b3c4d"]
    assert second.rows == without_times(read_rows(anew.metrics)) and len(service.runs) == 2
    assert served.rows == without_times(read_rows(tmp_path / "before" / "metrics.jsonl"))
    assert served.ends == ["preempted", "finished"]
    assert served.told["project"] == "p" and served.told["groupName"] == "tiny"
    assert served.summary["test/knn_top1"] == 0.75 and served.summary["result"]["attempts"] == 2


@pytest.mark.slow
def test_a_folder_gets_one_whole_run_a_trial(tmp_path, said):
    """Attempts that were offline, or without W&B, are one piece there, in order, every step once."""
    run = prepare_run(tmp_path, tracking={"wandb": {"tags": ["x"], "project": "p"}})
    (run.path / "diff.patch").write_text("the patch")
    write_rows(run, range(5, 15, 5), 1)
    folder = tmp_path / "pieces"
    (folder / ".staging").mkdir(parents=True), (folder / ".staging" / "of a sync that died").touch()
    to = Destination(folder)
    assert sync([run], to) == 1 and exit_code(read_piece(folder)) == 1
    write_rows(run, range(15, 25, 5), 2)
    finish(run)
    assert sync([run], to) == 1 and sync([run], to, say=said.append) == 0
    assert said[0] == f"tiny/{run.trial}: nothing new"
    records = read_piece(folder)
    assert history(records) == without_times(read_rows(run.metrics))
    named = about(records)
    assert (named.run_id, named.run_group, named.project) == (f"tiny-{run.trial}", "tiny", "p")
    assert (named.display_name, named.job_type, list(named.tags)) == (run.trial, "train", ["x"])
    assert config(records)["optimizer"]["lr"] == 1e-3 and exit_code(records) == 0
    assert summary(records)["test/knn_top1"] == 0.75 and summary(records)["result"]["fingerprint"] == "f"
    assert "stats" not in kinds(records), "nothing of this machine"
    (piece,) = folder.iterdir()
    assert (piece / "files" / "diff.patch").read_text() == "the patch"
    assert not (run.path / "wandb").exists(), "the run folder is as it was"


def test_one_damaged_trial_keeps_no_other_from_being_sent(tmp_path, said):
    runs = [prepare_run(tmp_path / str(n), tracking={"wandb": {}}, train={"seed": n}) for n in range(3)]
    for run in runs:
        write_rows(run, range(5, 15, 5), 1)
    runs[1].config.write_text(runs[1].config.read_text()[:100])
    to = Destination(tmp_path / "pieces")
    for dry_run in (True, False):
        said.clear()
        with pytest.raises(RunnerError, match="sync: 1 trial cannot be read"):
            sync(runs, to, dry_run, say=said.append)
        assert len(said) == 4 and "config.yaml" in said[1] and said[3].startswith("2 trials of 3")
    assert len([path for path in to.folder.iterdir() if not path.name.startswith(".")]) == 2


@pytest.mark.slow
def test_a_sync_that_was_killed_is_gone_on_with_by_two_at_once(tmp_path, monkeypatch):
    run = prepare_run(tmp_path)
    write_rows(run, range(5, 25, 5), 1)
    finish(run)
    command = [sys.executable, "-m", "runner", "--root", str(tmp_path / "runs"), "sync", "tiny"]
    with serving() as service:
        login(monkeypatch, service)
        took, died, real = threading.Event(), threading.Event(), service._stream

        def take_half(served, chunk):
            history = (chunk.get("files") or {}).get("wandb-history.jsonl")
            if history and not took.is_set():
                real(served, {"files": {"wandb-history.jsonl": {**history, "content": history["content"][:2]}}})
                took.set()
            if took.is_set():
                # What it did not take it does not acknowledge: else the sync would be done.
                died.wait(60)

        monkeypatch.setattr(service, "_stream", take_half)
        first = psutil.Popen(command, stdout=subprocess.PIPE)
        assert took.wait(60)
        for process in [*first.children(recursive=True), first]:
            process.kill()
        first.communicate()
        died.set()
        (served,) = service.runs.values()
        there = len(served.rows)
        assert 0 < there < 4 and read_note(run)["digest"] is None
        monkeypatch.setattr(service, "_stream", real)
        both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        said = sorted(process.communicate(timeout=120)[0].splitlines()[0].partition(": ")[2] for process in both)
    assert f"sent {4 - there} of 4 rows, done" in said and said[0] in ("nothing new", "another process sends it")
    assert served.rows == without_times(read_rows(run.metrics)) and served.ends == ["finished"]


IMPATIENT = """
import sys, runner.sync as syncing
from runner.cli import main
syncing.QUIET["init_timeout"] = 5.0
main()
"""


@pytest.mark.slow
def test_a_server_that_never_answers_is_told_in_one_line(tmp_path, monkeypatch):
    run = prepare_run(tmp_path)
    write_rows(run, range(5, 15, 5), 1)
    monkeypatch.setenv("WANDB_API_KEY", "f" * 40)
    with socket.create_server(("127.0.0.1", 0)) as hole:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{hole.getsockname()[1]}")
        command = [sys.executable, "-c", IMPATIENT, "--root", str(tmp_path / "runs"), "sync", "tiny"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stdout == "", done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"runner: tiny/{run.trial}: W&B did not take it: CommError: "), line


def test_a_mirror_that_lives_is_left_to_it(tmp_path):
    run = prepare_run(tmp_path)
    write_rows(run, range(5, 15, 5), 1)
    sleeper = psutil.Popen(["sleep", "60"])
    note = {"to": "https://api.wandb.ai /tiny", "digest": None, "sender": {"host": os.uname().nodename}}
    note["sender"] |= {"pid": sleeper.pid, "created": sleeper.create_time()}
    (run.path / "wandb").mkdir()
    try:
        write_json(run.path / "wandb" / "sent.json", note)
        assert read_standing(run, Destination()).has_sender
        assert not read_standing(run, Destination(tmp_path / "pieces")).has_sender
        elsewhere = {**note, "sender": {**note["sender"], "host": "another"}}
        write_json(run.path / "wandb" / "sent.json", elsewhere)
        assert not read_standing(run, Destination()).has_sender, "its trainer is silent"
    finally:
        sleeper.kill()
        sleeper.wait()
    write_json(run.path / "wandb" / "sent.json", note)
    assert not read_standing(run, Destination()).has_sender


@pytest.mark.parametrize("why_not", ["another process sends it", "has no rows yet"])
def test_what_is_not_sent_after_all_is_not_counted(tmp_path, monkeypatch, said, why_not):
    """What another process does between the first look and the lock."""
    run, sleeper = prepare_run(tmp_path), psutil.Popen(["sleep", "60"])
    write_rows(run, range(5, 15, 5), 1)

    def locked_late(folder: Path) -> AbstractContextManager[None]:
        if why_not == "has no rows yet":
            run.metrics.unlink()
        else:
            sender = {"host": os.uname().nodename, "pid": sleeper.pid, "created": sleeper.create_time()}
            folder.mkdir()
            write_json(folder / "sent.json", {"to": "https://api.wandb.ai /tiny", "digest": None, "sender": sender})
        return locked(folder)

    monkeypatch.setenv("WANDB_API_KEY", "f" * 40)
    monkeypatch.setattr(syncing, "locked", locked_late)
    try:
        assert sync([run], Destination(), say=said.append) == 0
    finally:
        sleeper.kill()
        sleeper.wait()
    assert said == [f"tiny/{run.trial}: {why_not}", "0 trials of 1 sent"]


def test_a_target_that_is_a_file_is_refused(tmp_path):
    run = prepare_run(tmp_path)
    done = run_cli("--root", tmp_path / "runs", "sync", run.trial, "--to", run.config)
    assert (done.returncode, done.stderr) == (2, f"runner: --to {run.config}: is no folder; give another --to\n")


@pytest.mark.nightly
def test_wandbs_own_sync_takes_such_a_folder(tmp_path, monkeypatch):
    run = prepare_run(tmp_path)
    write_rows(run, range(5, 25, 5), 1)
    finish(run)
    assert sync([run], Destination(tmp_path / "pieces")) == 1
    (piece,) = (tmp_path / "pieces").iterdir()
    with serving() as service:
        login(monkeypatch, service)
        command = [sys.executable, "-m", "wandb", "sync", str(piece)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    (served,) = service.runs.values()
    assert served.rows == without_times(read_rows(run.metrics)) and served.ends == ["finished"], done.stderr
