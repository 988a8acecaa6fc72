"""A trial is one W&B run with every step once, however often it was requeued: asked of a stand-in for W&B's server."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from runner.attempt import claim
from runner.config import TrackingConfig
from runner.errors import ConfigError
from runner.experiment import load_trial
from runner.files import append_row, read_rows, write_json
from runner.mirrors.wandb import choose_mode, is_logged_in, set_aside
from runner.named import resolve_mirrors
from runner.rundir import RunDir
from runner.sink import MetricRow, how_it_stands, read_metrics
from runner.tracking import Tracker
from runner.wandb_note import find_group_page, group_page
from tests.experiments import prepare_run
from tests.mirror_files import exit_code, history, kinds, read_piece, without_times
from tests.wandb_service import ENTITY, login, serving

pytestmark = pytest.mark.usefixtures("no_login")


def write_rows(run: RunDir, steps: range, attempt: int) -> None:
    for step in steps:
        append_row(run.metrics, {"step": step, "time": 1e9 + step, "attempt": attempt, "train/loss": 1 / step})


def mirror_attempt(name: str, run: RunDir, attempt: int) -> str:
    """The whole life of a mirror whose trainer has ended already; a busy machine may take longer than it is given.

    What it says, which is nothing unless something goes wrong.
    """
    run_it = f"mirror.main({name!r}, {str(run.path)!r}, '{attempt}')"
    program = f"from runner import mirror; mirror.ORPHAN_SECONDS = 90; {run_it}"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_service_has_every_step_once_after_requeues(tmp_path, monkeypatch):
    """It saw step 20, then the trial went on from 10, once without a mirror: nothing twice, and no gap."""
    options = {"project": "a-project", "tags": ["x", "y"], "job_type": "pretrain", "notes": "why"}
    run = prepare_run(tmp_path, tracking={"wandb": options})
    (run.path / "diff.patch").write_text("--- a\n+++ b\n")
    with serving() as service:
        login(monkeypatch, service)
        write_rows(run, range(5, 25, 5), claim(run).number)
        assert mirror_attempt("wandb", run, 1) == ""
        (served,) = service.runs.values()
        assert served.ends == ["preempted"] and [row["step"] for row in served.rows] == [5, 10, 15, 20]

        unseen = Tracker(claim(run), TrackingConfig())
        unseen.begin(10)
        write_rows(run, range(15, 35, 5), 2)
        last = Tracker(claim(run), TrackingConfig())
        last.begin(30)
        write_rows(run, range(35, 45, 5), 3)
        result = {"state": "done", "step": 40, "metrics": {"train/loss": 0.025}, "fingerprint": "f", "attempts": 3}
        write_json(run.result, result)
        assert mirror_attempt("wandb", run, 3) == ""

    assert list(service.runs) == [f"tiny-{run.trial}"]
    assert served.rows == without_times(read_rows(run.metrics)) and served.rows[-1]["step"] == 40
    assert json.loads(served.lines["wandb-history.jsonl"][0])["_timestamp"] == 1e9 + 5, "when it was measured"
    assert served.ends == ["preempted", "finished"]
    assert served.summary["train/loss"] == 0.025 and served.summary["result"]["fingerprint"] == "f"
    told = {key: served.told[key] for key in ("project", "groupName", "displayName", "jobType", "notes", "tags")}
    assert list(told.values()) == ["a-project", "tiny", run.trial, "pretrain", "why", ["x", "y"]]
    assert served.config["train"]["steps"] == 20 and set(served.config["code"]) == {"sha", "dirty", "snapshot"}
    (diff,) = service.artifacts.values()
    assert diff["artifactTypeName"] == "code" and diff["committed"] and diff["files"]["diff.patch"] == b"--- a\n+++ b\n"
    assert served.files["diff.patch"] == b"--- a\n+++ b\n" and "provenance.json" in served.files
    assert find_group_page([run]) == f"{service.url}/{ENTITY}/a-project/groups/tiny"


@pytest.mark.slow
def test_a_service_that_takes_no_artifacts_costs_no_row(tmp_path, monkeypatch):
    run = prepare_run(tmp_path, tracking={"wandb": {}})
    (run.path / "diff.patch").write_text("--- a\n+++ b\n")
    write_rows(run, range(5, 15, 5), claim(run).number)
    write_json(run.failure, {"cause": "killed"})
    monkeypatch.setattr("tests.wandb_service.Service._ArtifactType", lambda *_: {})
    with serving() as service:
        login(monkeypatch, service)
        said = mirror_attempt("wandb", run, 1)
    (served,) = service.runs.values()
    assert [row["step"] for row in served.rows] == [5, 10] and served.ends == ["failed"] and not service.artifacts
    assert "W&B did not take diff.patch as an artifact" in said


@pytest.mark.slow
def test_the_offline_run_of_the_last_attempt_is_whole(tmp_path):
    """That of an attempt before, killed or not, would give its steps twice to `wandb sync`."""
    run = prepare_run(tmp_path, tracking={"wandb": {"mode": "offline"}})
    write_rows(run, range(5, 15, 5), claim(run).number)
    torn = run.path / "wandb" / f"offline-run-20200101_000000-tiny-{run.trial}" / f"run-tiny-{run.trial}.wandb"
    torn.parent.mkdir(parents=True)
    torn.write_bytes(b":W&B\0\0\0")
    write_json(run.failure, {"cause": "killed"})
    assert mirror_attempt("wandb", run, 1) == ""
    records = read_piece(run.path / "wandb")
    assert history(records) == without_times(read_rows(run.metrics)) and exit_code(records) == 1
    assert "preempting" not in kinds(records), "failed for good"
    assert [path.name for path in (run.path / "wandb" / "earlier").iterdir()] == [torn.parent.name]


def test_pieces_of_one_second_are_both_kept(tmp_path):
    for name in ("1", "2", "3"):
        (tmp_path / "offline-run-20200101_000000-x").mkdir()
        (tmp_path / "offline-run-20200101_000000-x" / name).touch()
        set_aside(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("earlier/*/*")) == ["1", "2", "3"]


def test_how_a_trial_stands(tmp_path):
    run = RunDir(tmp_path)
    assert how_it_stands(run, 1) == "interrupted"
    run.token(1).mkdir(parents=True)
    write_json(run.crash(1, 0), {"cause": "data"})
    assert how_it_stands(run, 1) == "failed" and how_it_stands(run) == how_it_stands(run, 2) == "interrupted"
    for path, end in ((run.failure, "failed"), (run.cancelled, "cancelled"), (run.result, "done")):
        write_json(path, {})
        assert how_it_stands(run, 2) == end


def test_rows_are_read_in_order_and_once(tmp_path):
    rows = [{"step": 5, "time": 1, "attempt": 1, "a": 0.5}, {"step": 5, "time": 2, "attempt": 2, "a": 9.0}]
    rows += [{"step": "x"}, {"step": 6, "time": 3, "attempt": 2, "b": 1.0}]
    (tmp_path / "m").write_text("".join(f"{json.dumps(row)}\n" for row in rows) + "torn")
    assert read_metrics(tmp_path / "m") == [MetricRow(5, 1, {"a": 0.5}), MetricRow(6, 3, {"b": 1.0})]


def test_the_group_page_is_known_without_a_network(tmp_path, monkeypatch):
    assert group_page("p", "team", "exp") == "https://wandb.ai/team/p/groups/exp"
    monkeypatch.setenv("WANDB_BASE_URL", "https://user:word@wandb.example.org/")
    assert group_page("p", "team", "exp") == "https://***@wandb.example.org/team/p/groups/exp"
    assert find_group_page([RunDir(tmp_path)]) is None


@pytest.mark.parametrize(
    ("tracking", "message"),
    [
        ({"wandb": {"mod": "offline"}}, 'tracking.wandb.mod: unknown key; did you mean "mode"?'),
        ({"wandb": {"mode": "no"}}, 'tracking.wandb.mode: "no" is not allowed'),
        ({"wandbb": {}}, 'tracking.wandbb: unknown key; did you mean "wandb"?'),
        ({"wandb": True}, "tracking.wandb: unknown key; there is every_steps; a mirror is a mapping, as in wandb: {}"),
        ({"every_step": 5}, 'tracking.every_step: unknown key; did you mean "every_steps"?'),
    ],
)
def test_mirrors_refuse_what_they_do_not_know(tmp_path, tracking, message):
    with pytest.raises(ConfigError) as caught:
        resolve_mirrors(load_trial(prepare_run(tmp_path, tracking=tracking).config).tracking)
    assert message in str(caught.value)


def test_no_mirror_is_part_of_a_trial(tmp_path):
    run = prepare_run(tmp_path / "1", tracking={"wandb": {"mode": "offline"}, "tensorboard": {}})
    other = prepare_run(tmp_path / "2", tracking={"wandb": None})
    assert run.trial == other.trial
    assert set(resolve_mirrors(load_trial(run.config).tracking)) == {"wandb", "tensorboard"}
    assert load_trial(other.config).tracking.mirrors == {}


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
