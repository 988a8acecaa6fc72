"""`runner rehearse`: its plan, what it makes of what it saw, and the whole of it on a real Slurm."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from runner.cli import run as cli
from runner.errors import ConfigError
from runner.files import append_row, read_json, replacing
from runner.rehearsal import KINDS, Event, Report, Strike, compare, describe_passage, plan_events
from runner.rehearse import check_length, make_site, with_checkpoints
from runner.rundir import RunDir, find_experiments
from runner.sight import Sight
from tests.experiments import prepare_run, run_cli, write_experiment
from tests.slurm_cluster import skip_without_slurm, wait_for
from tests.trials import end, start

GROUPS = {"train": {"steps": 100_000}, "schedule": {"name": "constant"}, "evaluate": {"probes": ["knn"]}}


@pytest.fixture
def scratch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary folders are made; a path short enough for the sockets of Slurm."""
    with tempfile.TemporaryDirectory(prefix="t-") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


def left_in(scratch: Path) -> list[str]:
    """What a cluster has left; torch makes a cache of its own there."""
    return [name for name in os.listdir(scratch) if name.startswith("onebox-")]


def belonging_to(folder: Path) -> list[str]:
    """The processes whose Slurm lies in the folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(folder) in process.environ().get("SLURM_CONF", "") and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


@pytest.mark.parametrize("steps", [20, 137, 5000])
def test_every_event_comes_once_at_a_step_of_its_own_share(steps):
    plans = {plan_events(steps, seed) for seed in range(200)}
    assert len(plans) > 100, "another seed, another plan"
    assert plan_events(steps, 7) == plan_events(steps, 7)
    for plan in plans:
        assert sorted(event.kind for event in plan) == sorted(KINDS)
        for index, event in enumerate(plan):
            assert steps * index / 5 <= event.step <= 1 + steps * (index + 0.6) / 5 <= steps
    assert len({tuple(event.kind for event in plan) for plan in plans}) > 50, "in any order"


def test_events_that_were_asked_for_come_in_their_order():
    plan = plan_events(100, 0, ["kill", "kill", "term"])
    assert [event.kind for event in plan] == ["kill", "kill", "term"]
    assert [event.step for event in plan] == sorted(event.step for event in plan)


KILLED = Strike(Event("kill", 40), time=100.0, attempt=1)


def test_a_kill_costs_the_steps_since_the_last_checkpoint():
    attempts = [start(1), start(2, step=30)]
    seen = {1: {step: 90.0 + step / 4 for step in range(1, 43)}, 2: {step: 100.0 + step for step in range(31, 60)}}
    passage = describe_passage(KILLED, attempts, seen, done=False)
    assert (passage.left_step, passage.resumed_step, passage.lost_steps, passage.repeated_steps) == (42, 30, 12, 12)
    assert passage.survived and passage.saved_seconds is None and passage.new_step_seconds == 43


def test_a_save_costs_nothing():
    attempts = [start(1), end(1, 43, "preempted", requeue=True, signal_to_saved_seconds=0.2), start(2, step=43)]
    # The row of the step that was left is written by the next attempt: it is no repetition.
    seen = {1: {step: 90.0 for step in range(1, 43)}, 2: {step: 120.0 for step in range(43, 60)}}
    passage = describe_passage(KILLED, attempts, seen, done=False)
    assert (passage.left_step, passage.resumed_step, passage.lost_steps, passage.repeated_steps) == (43, 43, 0, 0)
    assert passage.saved_seconds == 0.2 and passage.new_step_seconds == 20


def test_an_attempt_that_came_no_further_is_no_survival():
    attempts = [start(1), start(2, step=30)]
    seen = {1: {42: 99.0}, 2: {40: 120.0}}
    passage = describe_passage(KILLED, attempts, seen, done=False)
    assert not passage.survived and passage.resumed_step is None and passage.lost_steps == 42


def test_a_trial_that_had_done_its_last_step_has_only_to_end():
    attempts = [start(1), start(2, step=42)]
    passage = describe_passage(KILLED, attempts, {1: {42: 99.0}}, done=True)
    assert passage.survived and (passage.resumed_step, passage.lost_steps, passage.new_step_seconds) == (42, 0, None)


def rows(*losses: float) -> list[dict[str, float]]:
    return [{"step": step, "time": step * 2.0, "attempt": 1, "train/loss": loss} for step, loss in enumerate(losses, 1)]


def test_two_runs_are_held_against_each_other():
    one, nan = {"fingerprint": "1"}, float("nan")
    again = [{**row, "time": 0.0, "attempt": 9} for row in rows(3.0, nan, 1.0)]
    assert compare(again, rows(3.0, nan, 1.0), one, one) == []
    assert "fingerprints" in compare(again, rows(3.0, nan, 1.0), one, {"fingerprint": "2"})[0]
    assert "step 3 is the first" in compare(again, rows(3.0, nan, 1.5), one, one)[0]
    assert compare(again[:2], rows(3.0, nan, 1.0), one, one) == ["steps without a row: 3"]
    assert "stands twice" in compare([*again, again[0]], rows(3.0, nan, 1.0), one, one)[0]


@pytest.mark.parametrize("problem", [{"differences": ("x",)}, {"note": "x"}, {"planned": 2}])
def test_it_has_passed_only_when_nothing_is_amiss(problem):
    passage = describe_passage(KILLED, [start(1), start(2, step=30)], {1: {42: 1.0}, 2: {43: 120.0}}, done=True)
    facts = {"planned": 1, "differences": (), "note": ""}
    report = Report("e", "t", "f", 0, 100, 2, 2, (passage,), **facts)
    assert report.passed and report.as_json()["passed"]
    assert not Report("e", "t", "f", 0, 100, 2, 2, (passage,), **(facts | problem)).passed


def test_rows_that_are_taken_back_have_been_seen(tmp_path):
    run, sight = RunDir(tmp_path), Sight(RunDir(tmp_path))
    sight.look()
    assert sight.newest == (0, 0)
    for step in (1, 2, 3):
        append_row(run.metrics, {"step": step, "attempt": 1, "time": 10.0 + step})
    sight.look()
    with replacing(run.metrics) as file:
        file.write(b'{"step": 1, "attempt": 1, "time": 11.0}\n{"step": 2, "attempt": 2, "time": 20.0}\n{"step": 3, "at')
    sight.look()
    assert sight.newest == (2, 2)
    with run.metrics.open("a") as file:
        file.write('tempt": 2, "time": 21.0}\n')
    sight.look()
    assert sight.steps == {1: {1: 11.0, 2: 12.0, 3: 13.0}, 2: {2: 20.0, 3: 21.0}}


def test_the_trial_is_spread_over_two_nodes_where_it_can_be():
    assert [make_site(ranks, cuda=False)[1] for ranks in (1, 2, 3, 4)] == [1, 2, 1, 2]
    assert make_site(2, cuda=True)[1] == 1, "a rank on each of two nodes would share the one GPU"


def test_refusals_cost_one_line_and_write_nothing(tmp_path, capfd, monkeypatch):
    path, root = str(write_experiment(tmp_path, **GROUPS)), tmp_path / "runs"

    def refused(*words: str) -> str:
        assert cli(["rehearse", path, *words, "--root", str(root)]) == 2
        out, err = capfd.readouterr()
        assert out == "" and err.count("\n") == 1 and not root.exists()
        return err

    skip_without_slurm()
    assert "--event nod: is not allowed; there is preempt" in refused("--event", "nod")
    assert "--steps 19: is not allowed; so many events need at least 20" in refused("--steps", "19")
    assert "--steps 3: is not allowed; so many events need at least 4" in refused("--steps", "3", "--event", "kill")
    assert "unknown key" in refused("method.gama=1")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "not found; get it with: runner onebox install" in refused()


def test_a_trial_that_is_over_in_no_time_is_no_rehearsal():
    rows = [{"step": step, "time": step / 50} for step in range(1, 101)]
    check_length(Path("x.yaml"), rows, 0)
    with pytest.raises(
        ConfigError, match=r"x.yaml: its 100 steps take 2.0 s, too little for 2 interruptions"
    ) as caught:
        check_length(Path("x.yaml"), rows, 2)
    assert str(caught.value).endswith("such as train.steps=405")


def test_the_users_trial_but_for_cadences(tmp_path):
    from runner.experiment import load_trial

    trial = load_trial(prepare_run(tmp_path, checkpoint={"every_minutes": 5, "keep": 7}).config)
    shortened = with_checkpoints(trial, 400)
    assert (shortened.checkpoint.every_steps, shortened.checkpoint.keep) == (40, 7)
    assert shortened.model_copy(update={"checkpoint": trial.checkpoint}) == trial
    assert with_checkpoints(trial, None) is trial


@pytest.mark.nightly
@pytest.mark.slurm
@pytest.mark.slow
@pytest.mark.ddp
@pytest.mark.timeout(600)
def test_a_rehearsal_from_end_to_end(tmp_path, scratch):
    skip_without_slurm()
    path, root = write_experiment(tmp_path, rehearse={"at_step": 5}, **GROUPS), tmp_path / "runs"
    written = path.read_text()
    words = ["rehearse", path, "--ranks", 2, "--steps", 400, "--event", "kill", "--event", "requeue", "--seed", 1]
    done = run_cli(*words, "--json", "--root", root, timeout=580)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["passed"] and report["differences"] == [] and report["note"] == ""
    assert (report["steps"], report["ranks"], report["nodes"], report["seed"]) == (400, 2, 2, 1)
    kill, again = report["passages"]
    assert (kill["event"], again["event"]) == ("kill", "requeue") and kill["survived"] and again["survived"]
    assert kill["left_step"] >= kill["planned_step"] and kill["resumed_step"] % 40 == 0
    assert kill["lost_steps"] == kill["repeated_steps"] == kill["left_step"] - kill["resumed_step"]
    assert again["attempt"] > kill["attempt"], "an attempt that had resumed"
    assert again["left_step"] == again["resumed_step"] and again["lost_steps"] == again["repeated_steps"] == 0
    assert 0 < again["saved_seconds"] < again["new_step_seconds"]
    # What it says, by the files themselves.
    interrupted, reference = (RunDir(Path(report["folder"]) / name) for name in ("interrupted", "uninterrupted"))
    assert read_json(interrupted.result)["fingerprint"] == read_json(reference.result)["fingerprint"]
    assert sum(row["event"] == "start" for row in interrupted.attempt_rows()) >= 3
    assert sum(row["event"] == "start" for row in reference.attempt_rows()) == 1, "no signal of its own, either"
    # Nothing is left but the folder.
    assert left_in(scratch) == [] and belonging_to(scratch) == []
    assert {entry.name for entry in tmp_path.iterdir()} == {"runs", "tiny.yaml"} and path.read_text() == written
    assert os.listdir(root) == [".rehearsal"] and find_experiments(root) == []


@pytest.mark.nightly
@pytest.mark.slurm
@pytest.mark.ddp
@pytest.mark.timeout(1800)
def test_a_rehearsal_as_it_comes(tmp_path, scratch):
    skip_without_slurm()
    path = write_experiment(tmp_path, **GROUPS)
    done = run_cli("rehearse", path, "--ranks", 2, "--root", tmp_path / "runs", timeout=1700)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 1 + len(KINDS) + 2 and all(any(words in line for line in lines) for words in KINDS.values())
    assert lines[-1].startswith("bit for bit the uninterrupted run")
    assert left_in(scratch) == [] and belonging_to(scratch) == []


@pytest.mark.slurm
@pytest.mark.slow
def test_a_trial_that_fails_by_itself_is_told(tmp_path, scratch):
    skip_without_slurm()
    path = write_experiment(tmp_path, **GROUPS)
    words = ["optimizer.lr=1e30", "train.max_grad_norm=null", "--ranks", 1, "--root", tmp_path / "runs"]
    done = run_cli("rehearse", path, *words)
    assert done.returncode == 1 and done.stdout == ""
    assert "without any interruption, the trial is failed: non-finite loss" in done.stderr.splitlines()[-1]
    assert left_in(scratch) == [] and belonging_to(scratch) == []


@pytest.mark.slurm
@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.nightly)])
def test_interrupted_itself_it_leaves_nothing_that_runs(tmp_path, scratch, signum):
    skip_without_slurm()
    path = write_experiment(tmp_path, **GROUPS)
    words = ["rehearse", path, "--ranks", 1, "--steps", 5000, "--root", tmp_path / "runs"]
    process = subprocess.Popen(
        [sys.executable, "-m", "runner", *map(str, words)], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    ranks = lambda: [words for words in belonging_to(scratch) if "submitit.core._submit" in words]  # noqa: E731
    wait_for(ranks, 120, "a rank")
    process.send_signal(signum)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err
    assert left_in(scratch) == [] and belonging_to(scratch) == []
