"""`cluster: local` with real processes: the queue does what a cluster does for a trial, and leaves nothing behind."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import submitit
import yaml

from runner import local_queue
from runner.cancel import cancel
from runner.cli import run as cli
from runner.config import ResourcesConfig
from runner.decision import Decision
from runner.faults import Fault, Proof
from runner.files import append_row, read_json, read_rows
from runner.job import TrainJob, place_in_job
from runner.local_queue import Running, Waiting, choose, choose_gpus, work_off
from runner.processes import is_alive, is_running
from runner.profile import load_profile
from runner.rank import run_rank
from runner.retry import retry
from runner.rundir import RunDir, find_trials
from tests.experiments import last_step, prepare_run, run_cli, write_experiment
from tests.slurm_cluster import GONE_SECONDS, wait_for

PATIENCE_SECONDS = 120
SMALL = {
    "data": {"limit": 128},
    "train": {"steps": 12},
    "schedule": {"warmup_steps": 0},
    "tracking": {"every_steps": 2},
}


@pytest.fixture
def root(tmp_path):
    """A run root; whatever queue is left of it at the end of a test is ended."""
    yield tmp_path / "runs"
    for queue in queues(tmp_path / "runs"):
        for process in [*queue.children(recursive=True), queue]:
            process.kill()


def queues(root: Path) -> list[psutil.Process]:
    """The living queues of all submissions."""
    rows = [row for run in find_trials(root / "tiny") for row in run.job_rows()]
    return [psutil.Process(pid) for pid in {row["pid"] for row in rows if is_alive(row["pid"], row["pid_created"])}]


def profile(folder: Path, **keys) -> Path:
    path = folder / "here.yaml"
    path.write_text(json.dumps({"cluster": "local", **keys}))
    return path


def tell_to(path: Path) -> str:
    """A command that adds a line to a file."""
    return f'echo "$RUNNER_EVENT $RUNNER_STATE $RUNNER_CAUSE" >> {path}'


def by_override(root: Path, key: str) -> dict:
    return {yaml.safe_load(run.overrides.read_text()).get(key): run for run in find_trials(root / "tiny")}


def ranks_of(run: RunDir) -> dict[int, psutil.Process]:
    """The rank processes of a trial that run now, by rank."""
    found = {}
    numbers = {str(row["job_id"]) for row in run.attempt_rows() if row["event"] == "start"}
    for process in psutil.process_iter():
        try:
            environment = process.environ()
            rank = "submitit.core._submit" in process.cmdline() and process.name() != "pt_data_worker"
            if environment.get("SUBMITIT_LOCAL_JOB_ID") in numbers and rank:
                found[int(environment["SUBMITIT_LOCAL_GLOBALID"])] = process
        except psutil.Error:
            continue
    return found


def wait_for_step(run: RunDir, step: int) -> None:
    wait_for(lambda: last_step(run), PATIENCE_SECONDS, f"step {step}", until=lambda found: found >= step)


def wait_until_gone(root: Path) -> None:
    wait_for(lambda: queues(root), PATIENCE_SECONDS, "the queue to end", until=lambda left: not left)


def causes(run: RunDir) -> list[str]:
    return [row["cause"] for row in run.attempt_rows() if row["event"] == "end"]


def starts(run: RunDir) -> list[int]:
    return [row["start_step"] for row in run.attempt_rows() if row["event"] == "start"]


def spans(run: RunDir) -> list[tuple[float, float]]:
    """From when to when each attempt ran."""
    rows = run.attempt_rows()
    return [(first["time"], last["time"]) for first, last in zip(rows[::2], rows[1::2], strict=True)]


@pytest.mark.slow
def test_a_sweep_with_an_interruption_is_done_two_at_a_time(tmp_path, root):
    path = write_experiment(tmp_path, sweep={"seeds": [0, 1, 2]}, rehearse={"at_step": 5}, **SMALL)
    site = profile(tmp_path, parallel=2, setup=["export OF_SETUP=yes"], notify=tell_to(tmp_path / "told"))
    # As in the shell of an allocation: its job is not ours.
    inside = os.environ | {"SLURM_JOB_ID": "1", "SLURM_RESTART_COUNT": "3", "SLURM_PROCID": "0"}
    done = run_cli("submit", path, "--on", site, "--wait", "--root", root, env=inside)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 to submit" in done.stdout and "3 done" in done.stdout and "preempted at step" in done.stdout
    runs = [by_override(root, "train.seed")[seed] for seed in range(3)]
    assert [causes(run) for run in runs] == [["preempted", "done"], ["done"], ["done"]]
    assert starts(runs[0]) == [0, runs[0].attempt_rows()[1]["end_step"]], (
        "only the first is interrupted, and nothing is lost"
    )
    for run in runs:
        assert [row["step"] for row in read_rows(run.metrics)] == [2, 4, 6, 8, 10, 12]
    moments = [moment for run in runs for span in spans(run) for moment in span]
    running = [sum(begin <= at < end for run in runs for begin, end in spans(run)) for at in moments]
    assert max(running) <= 2
    wait_until_gone(root)
    assert not any(ranks_of(run) for run in runs)
    told = (tmp_path / "told").read_text().splitlines()
    assert sorted(told) == ["sweep done 3 done", *["trial done done"] * 3], "once each, after a preemption, too"


@pytest.mark.slow
@pytest.mark.ddp
def test_two_ranks_lose_no_step_to_a_preemption_a_kill_and_the_end_of_their_queue(tmp_path, root):
    groups = {**SMALL, "train": {"steps": 300}, "resources": {"ranks": 2}, "checkpoint": {"every_steps": 10}}
    path = write_experiment(tmp_path, rehearse={"at_step": 5}, **groups)
    command = ["submit", path, "--on", profile(tmp_path), "--root", root]
    assert run_cli(*command).returncode == 0
    (run,) = find_trials(root / "tiny")
    wait_for(lambda: starts(run), PATIENCE_SECONDS, "the second attempt", until=lambda found: len(found) == 2)
    preempted = run.attempt_rows()[1]
    assert preempted["cause"] == "preempted" and starts(run)[1] == preempted["end_step"] >= 5
    assert len({row["job_id"] for row in run.attempt_rows() if row["event"] == "start"}) == 1, "requeued as one job"

    wait_for_step(run, starts(run)[1] + 20)
    (queue,) = queues(root)
    family = [queue, *queue.children(recursive=True)]
    ranks = ranks_of(run)
    assert sorted(ranks) == [0, 1] and set(ranks.values()) <= set(family)
    listening = [c.laddr.ip for each in family for c in each.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert listening and set(listening) <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    ranks[1].kill()
    wait_for(lambda: starts(run), PATIENCE_SECONDS, "the third attempt", until=lambda found: len(found) == 3)
    assert causes(run) == ["preempted", "killed"]
    assert starts(run)[2] > starts(run)[1] and starts(run)[2] % 10 == 0, "from the last periodic checkpoint"

    wait_for_step(run, starts(run)[2] + 20)
    queue.terminate()
    wait_until_gone(root)
    assert not ranks_of(run), "it took its ranks along"
    assert causes(run) == ["preempted", "killed", "terminated"]
    assert run_cli(*command, "--wait").returncode == 0
    assert starts(run)[3] == run.attempt_rows()[5]["end_step"] > starts(run)[2], "saved when it left"
    assert [row["step"] for row in read_rows(run.metrics)] == list(range(2, 301, 2))


@pytest.mark.slow
def test_a_cancelled_trial_is_retried_while_its_queue_goes_on_with_another(tmp_path, root):
    path = write_experiment(tmp_path, sweep={"seeds": [0, 1]}, **{**SMALL, "train": {"steps": 1_000_000}})
    assert run_cli("submit", path, "--on", profile(tmp_path), "--root", root).returncode == 0
    first, second = (by_override(root, "train.seed")[seed] for seed in range(2))
    wait_for_step(first, 2)
    (queue,) = queues(root)
    cancel([second])
    again = run_cli("retry", f"tiny/{second.trial}", "--root", root)
    assert again.returncode == 0 and again.stdout == "submitted 1 of 1 trial again\n", again.stderr
    wait_for_step(second, 2)
    assert queue.is_running() and ranks_of(first) and second.job_rows()[-1]["pid"] != queue.pid
    cancel([first])
    wait_for(queue.is_running, PATIENCE_SECONDS, "the first queue to end", until=lambda alive: not alive)
    assert len(starts(second)) == 1, "the first queue does not start it, too"


@pytest.mark.slow
def test_failed_cancelled_and_retried(tmp_path, root, capfd):
    cases = [{"optimizer.lr": 1e30}, {"train.steps": 1_000_000}, {"train.seed": 1}]
    groups = {**SMALL, "train": {"steps": 12, "max_grad_norm": None}}
    path = write_experiment(tmp_path, sweep={"list": cases}, **groups)
    site = profile(tmp_path, parallel=3, setup=["export OF_SETUP=yes", "true"], notify=tell_to(tmp_path / "told"))
    command = [sys.executable, "-m", "runner", "submit", str(path), "--on", str(site), "--wait", "--root", str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as waiting:
        found = wait_for(
            lambda: by_override(root, "train.steps"), 60, "the folders", until=lambda found: len(found) > 1
        )
        endless = found[1_000_000]
        wait_for_step(endless, 2)
        waiting.send_signal(signal.SIGINT)
        _, stderr = waiting.communicate(timeout=30)
    assert waiting.returncode == 130
    assert stderr == "runner: interrupted; the trials go on, and `runner cancel tiny` stops them\n"
    assert queues(root) and ranks_of(endless), "the queue goes on"

    assert cli(["cancel", f"tiny/{endless.trial}", "--yes", "--root", str(root)]) == 0
    plan = retry([endless], None, patience_seconds=0)
    assert plan.refused and not plan.runs, "not while it is still leaving"
    wait_until_gone(root)
    assert not ranks_of(endless) and causes(endless) == ["cancelled"] and not endless.failure.exists()
    failed, fine = by_override(root, "optimizer.lr")[1e30], by_override(root, "train.seed")[1]
    assert causes(fine) == ["done"]
    failure = read_json(failed.failure)
    assert failure["cause"] == "non-finite loss" and "NonFiniteLossError" in Path(failure["traceback"]).read_text()
    assert causes(failed) == ["non-finite loss"], "a user's error is not tried again"
    told = (tmp_path / "told").read_text().splitlines()
    ends = ["sweep failed 1 done, 1 failed, 1 cancelled", "trial done done", "trial failed non-finite loss"]
    assert sorted(told) == ends
    assert cli(command[3:]) == 1
    assert "0 to submit" in capfd.readouterr().out

    assert run_cli("retry", f"tiny/{endless.trial}", "--root", root).returncode == 0
    wait_for(lambda: starts(endless), PATIENCE_SECONDS, "the next attempt", until=lambda found: len(found) == 2)
    assert starts(endless) == [0, endless.attempt_rows()[1]["end_step"]], "it goes on where the cancel saved"
    assert cli(["cancel", f"tiny/{endless.trial}", "--yes", "--root", str(root)]) == 0
    again = run_cli("retry", f"tiny/{endless.trial}", "--root", root)
    assert again.returncode == 0 and again.stdout == "submitted 1 of 1 trial again\n"
    assert again.stderr in ("", f"runner: waiting up to 30 s for jobs to end: {endless.trial}\n")
    assert cli(["cancel", f"tiny/{endless.trial}", "--yes", "--root", str(root)]) == 0
    wait_until_gone(root)
    assert not ranks_of(endless)
    assert all(early[1] < late[0] for early, late in itertools.pairwise(spans(endless))), "one after the other"


@pytest.mark.slow
@pytest.mark.ddp
def test_a_killed_rank_or_queue_leaves_nothing_behind(tmp_path, root, capfd):
    train = {"steps": 1_000_000, "workers": 1}
    path = write_experiment(tmp_path, **{**SMALL, "train": train, "resources": {"ranks": 2}})
    assert run_cli("submit", path, "--on", profile(tmp_path), "--root", root).returncode == 0
    (run,) = find_trials(root / "tiny")
    wait_for_step(run, 2)
    (queue,) = queues(root)
    ranks = ranks_of(run)
    family = [*ranks.values(), *(child for rank in ranks.values() for child in rank.children(recursive=True))]
    assert len(family) >= 4, "each rank has a loader worker"
    ranks[0].kill()
    wait_for(
        lambda: [each for each in family if is_running(each.pid)],
        GONE_SECONDS,
        "all to go",
        until=lambda left: not left,
    )
    wait_for(lambda: starts(run), PATIENCE_SECONDS, "the second attempt", until=lambda found: len(found) == 2)
    wait_for_step(run, 2)

    family = queue.children(recursive=True)
    assert len(family) >= 5, "submitit's controller, the ranks and their workers"
    queue.kill()
    wait_for(
        lambda: [each for each in family if is_running(each.pid)],
        GONE_SECONDS,
        "all to go",
        until=lambda left: not left,
    )
    assert causes(run) == ["killed", "terminated"], "the ranks saved and left"
    last = run.attempt_rows()[-1]
    assert last["end_step"] > 0 and not last["requeue"]
    assert cli(["status", "tiny", "--json", "--root", str(root)]) == 0
    assert json.loads(capfd.readouterr().out)[0]["state"] not in ("running", "done")


@dataclass(frozen=True)
class FaultyJob(TrainJob):
    """A trial that fails in each of its attempts, as the file `action` in its folder says."""

    def __call__(self) -> None:
        action = (Path(self.folder) / "action").read_text()
        fault = Fault("step.end", action, nth=3)
        run_rank(RunDir(Path(self.folder)), place_in_job(submitit.JobEnvironment()), proof=Proof((fault,)))


class Clock:
    """Seconds that pass a hundred times as fast while the queue waits."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += 100 * seconds
        time.sleep(seconds / 4)


@pytest.mark.slow
def test_a_user_error_stops_at_once_and_equal_crashes_after_three_that_waited(tmp_path, monkeypatch):
    submission = tmp_path / "submission"
    runs = {action: prepare_run(tmp_path / action, **SMALL) for action in ("raise", "input/output")}
    for action, run in runs.items():
        (run.path / "action").write_text(action)
        append_row(run.jobs, {"time": time.time(), "submission": str(submission), "job_id": "x", "cluster": "local"})
    clock, began, ended = Clock(), list[float](), list[tuple[float, Decision]]()
    submit_one, judge_one = local_queue._submit, local_queue._judge

    def submit(run, *rest):
        if run == runs["input/output"]:
            began.append(clock.now)
        return submit_one(run, *rest)

    def judge(entry, *rest):
        decision = judge_one(entry, *rest)
        if entry.run == runs["input/output"]:
            ended.append((clock.now, decision))
        return decision

    monkeypatch.setattr(local_queue, "TrainJob", FaultyJob)
    monkeypatch.setattr(local_queue, "_submit", submit)
    monkeypatch.setattr(local_queue, "_judge", judge)
    site = load_profile(profile(tmp_path, parallel=2, max_failures=9))
    work_off(list(runs.values()), ResourcesConfig(), site, submission, clock, clock.sleep)
    assert causes(runs["raise"]) == ["user code"]
    assert causes(runs["input/output"]) == ["I/O error"] * 3
    assert [decision.delay_seconds for _, decision in ended] == [0, 60, 0]
    waited = [after - before for (before, _), after in zip(ended, began[1:], strict=False)]
    assert waited[0] < 60 <= waited[1], "and no second more than the queue's own rhythm"
    assert waited[1] < 60 + 2 * 100 * local_queue.POLL_SECONDS
    for action, run in runs.items():
        failure = read_json(run.failure)
        assert failure is not None and failure["rank"] == 0 and Path(failure["traceback"]).exists(), action
        assert [row["end_step"] for row in run.attempt_rows() if row["event"] == "end"] == [3] * len(causes(run))
    assert "the last 3 crashes were the same at step 3: OSError in faults.py:_act" in str(failure)


def test_a_trial_that_waits_lets_others_pass():
    first, second = Waiting(RunDir(Path("a")), ready=60.0), Waiting(RunDir(Path("b")))
    assert choose([first, second], 0.0) is second
    assert choose([first], 59.9) is None and choose([first, second], 60.0) is first


def test_gpus_are_given_out_evenly():
    running: list[Running] = []
    for expected in [(0,), (1,), (2,), (0,)]:
        gpus = choose_gpus((0, 1, 2), 1, running)
        assert gpus == expected
        running.append(Running(None, None, gpus))
    del running[1]
    assert choose_gpus((0, 1, 2), 1, running) == (1,), "a GPU that was given back"
    assert (
        choose_gpus((0, 1, 2, 3), 2, []) == (0, 1)
        and choose_gpus((0, 1), 4, []) == (0, 1)
        and choose_gpus((), 2, []) == ()
    )
    halves = [Running(None, None, choose_gpus((0, 1, 2, 3), 2, [])), Running(None, None, (2, 3))]
    assert sorted(itertools.chain(*(entry.gpus for entry in halves))) == [0, 1, 2, 3]
