"""Several trials in one job: which go together, what the job asks for, and what becomes of it, as data."""

import signal
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import pack_requeue, slurm
from runner.cancel import cancel
from runner.config import ResourcesConfig
from runner.dispatch import batch_script
from runner.errors import ConfigError
from runner.explain import OptionError
from runner.files import append_row, write_json
from runner.local_queue import Running, choose_gpus
from runner.ownership import back_off_seconds, is_ours
from runner.pack import Fence, GivenUpError, claim_folder, decide_job, list_gpus, newest_launch
from runner.packing import (
    check_pack,
    count_fitting,
    count_gpus,
    jobs_at_once,
    pack_parameters,
    plan_packs,
    trials_at_once,
)
from runner.profile import Profile, load_profile
from runner.retry import plan_retry
from runner.rundir import RunDir
from runner.status import Job, ask_about, read_statuses
from runner.submission import SubmissionDir
from tests.trials import SUBMITTED, end, make_trial, slurm_job, start


def site(**keys: Any) -> Profile:
    return Profile(**{"cluster": "slurm", "trials_per_job": 4, "parallel": 256, **keys})


@given(st.lists(st.sampled_from("abc"), max_size=30), st.integers(1, 7), st.integers(0, 12))
def test_every_trial_has_one_job_with_others_of_its_kind(kinds, size, room):
    profile = site(trials_per_job=size)
    packs = plan_packs(kinds, profile)
    assert sorted(place for pack in packs for place in pack) == list(range(len(kinds)))
    for kind in set(kinds):
        own = [len(pack) for pack in packs if kinds[pack[0]] == kind]
        assert len(own) == -(-kinds.count(kind) // size), "as few jobs as there must be"
        assert max(own) - min(own) <= 1 and max(own) <= size
    assert all(len({kinds[place] for place in pack}) == 1 for pack in packs)
    fitting = count_fitting(kinds, profile, room)
    assert len(plan_packs(kinds[:fitting], profile)) <= room
    assert fitting == len(kinds) or len(plan_packs(kinds[: fitting + 1], profile)) > room


def test_a_job_has_the_cpus_of_all_trials_that_run_at_a_time_and_the_gpus_of_one():
    resources = ResourcesConfig(ranks=2, cpus_per_rank=3)
    assert pack_parameters(site(gpus_per_node=8), resources, 4) == {
        "nodes": 1,
        "ntasks_per_node": 1,
        "cpus_per_task": 4 * 2 * 3,
        "gpus_per_node": 2,
        "srun_args": ["--kill-on-bad-exit=1", "--cpus-per-task=24"],
    }
    many = site(trials_per_job=20, trials_at_once=4, cpus_per_task=1, parallel=10)
    assert pack_parameters(many, resources, 20)["cpus_per_task"] == 4 * 2 * 1
    assert "gpus_per_node" not in pack_parameters(many, resources, 20)
    assert jobs_at_once(many, plan_packs([0] * 60, many)) == 2, "parallel bounds trials"
    assert trials_at_once(many, 3) == 3 and trials_at_once(site(parallel=2), 4) == 2


@pytest.mark.parametrize(
    ("keys", "ranks", "trials", "gpus"),
    [
        ({}, 1, 4, 0),
        ({"gpus_per_node": 8}, 1, 4, 1),
        ({"gpus_per_node": 8}, 4, 4, 4),
        ({"gpus_per_node": 8, "gpus_per_job": 8, "trials_per_job": 8}, 1, 8, 8),
        ({"gpus_per_node": 8, "gpus_per_job": 2}, 1, 4, 2),
        # no more than they can use
        ({"gpus_per_node": 8, "gpus_per_job": 8}, 1, 3, 3),
        ({"gpus_per_node": 8, "gpus_per_job": 8, "trials_at_once": 2}, 1, 4, 2),
    ],
)
def test_gpus_of_a_job(keys, ranks, trials, gpus):
    assert count_gpus(site(**keys), ResourcesConfig(ranks=ranks), trials) == gpus


def test_gpus_are_those_that_slurm_shows_and_the_least_used_is_next():
    assert list_gpus(2, "2,3,5") == ("2", "3") and list_gpus(1, "GPU-ab,GPU-cd") == ("GPU-ab",)
    assert list_gpus(2, None) == (0, 1) == list_gpus(2, "NoDevFiles") and list_gpus(0, None) == ()
    running: list[Running] = []
    for number in range(5):
        chosen = choose_gpus(("2", "3"), 1, running)
        running.append(Running(RunDir(Path(str(number))), None, chosen))
    assert [entry.gpus for entry in running] == [("2",), ("3",), ("2",), ("3",), ("2",)]


def test_trials_of_several_nodes_are_refused_with_the_key():
    check_pack(site(trials_per_job=1, gpus_per_node=4), ResourcesConfig(ranks=8))
    with pytest.raises(OptionError, match=r"trials_per_job: 4 is not allowed; a trial of 8 ranks takes 2 nodes"):
        check_pack(site(gpus_per_node=4), ResourcesConfig(ranks=8))
    with pytest.raises(OptionError, match=r"gpus_per_job: 2 is not allowed; each of the 4 ranks"):
        check_pack(site(gpus_per_node=4, gpus_per_job=2), ResourcesConfig(ranks=4))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{cluster: local, trials_per_job: 2}", "trials_per_job: 2 is not allowed; without a scheduler"),
        ("{cluster: slurm, trials_at_once: 2}", "trials_at_once: 2 is not allowed; must be at most trials_per_job, 1"),
        ("{cluster: slurm, trials_per_job: 2, gpus_per_job: 2}", "gpus_per_job: 2 is not allowed; must be at most"),
        ("{cluster: slurm, gpus_per_node: 8, gpus_per_job: 2}", "gpus_per_job: 2 is not allowed; must be at most"),
        ("{cluster: slurm, trials_per_job: 0}", "trials_per_job"),
    ],
)
def test_mistakes_in_a_profile(tmp_path, text, told):
    (tmp_path / "site.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_profile(tmp_path / "site.yaml")
    assert told in str(caught.value)


def test_the_script_has_one_task_that_gets_all_cpus(tmp_path):
    submission = tmp_path / "exp" / ".submissions" / "x"
    script = batch_script(ResourcesConfig(ranks=2), 3, site(gpus_per_node=4), submission, trials=4)
    lines = set(script.splitlines())
    wanted = ["nodes=1", "ntasks-per-node=1", "cpus-per-task=8", "gpus-per-node=2", "array=0-2%3"]
    assert {f"#SBATCH --{line}" for line in wanted} <= lines
    (srun,) = [line for line in lines if line.startswith("srun ")]
    assert "--cpus-per-task=8" in srun and "runner.pack_requeue" in script and "runner.requeue" not in script


@pytest.mark.parametrize(
    ("is_left", "state", "signum", "action"),
    [
        (False, "RUNNING", signal.SIGUSR2, "over"),
        (True, "RUNNING", signal.SIGUSR2, "requeue"),
        (True, "SIGNALING", signal.SIGUSR2, "requeue"),
        # preemption where Slurm sends nothing but TERM
        (True, "RUNNING", signal.SIGTERM, "requeue"),
        # a scancel, or a requeue by others
        (True, "COMPLETING", signal.SIGTERM, "leave"),
        (True, "CANCELLED", signal.SIGUSR2, "leave"),
        # our own clock
        (True, "RUNNING", 0, "requeue"),
        # the controller does not answer: the signal is taken at its word
        (True, None, signal.SIGUSR2, "requeue"),
        (True, None, 0, "requeue"),
        (True, None, signal.SIGTERM, "leave"),
    ],
)
def test_what_becomes_of_a_job_whose_trials_have_left(is_left, state, signum, action):
    assert decide_job(is_left, state, signum) == action


def test_the_newest_launch_of_an_element_is_the_only_one_that_may_start_trials(tmp_path):
    (tmp_path / "pack_10.7").mkdir()
    old = Fence(claim_folder(tmp_path, 1), looked=0.0)
    old.check()
    assert old.folder.name == "pack_1.1" and old.folder.stat().st_mode & 0o777 == 0o700
    new = Fence(claim_folder(tmp_path, 1), looked=0.0)
    assert newest_launch(tmp_path, 1) == 2 and newest_launch(tmp_path, 0) == 0
    old.looked = 0.0
    with pytest.raises(GivenUpError):
        old.check()
    new.check()


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[RunDir], list[list[str]]]:
    """Four trials in job 7_1, of which the last has been submitted anew; and what is cancelled."""
    submission = SubmissionDir(tmp_path / "exp" / ".submissions" / "s")
    submission.path.mkdir(parents=True)
    job = {**slurm_job("7_1"), "packed": True, "submission": str(submission.path)}
    runs = [make_trial(tmp_path, name, job=job, attempts=[start(1)]) for name in "abcd"]
    submission.write_elements([[RunDir(tmp_path / "exp" / "elsewhere")], runs])
    append_row(runs[3].jobs, {**slurm_job("9"), "time": SUBMITTED + 5, "submission": "other"})
    calls: list[list[str]] = []
    monkeypatch.setattr(slurm, "cancel", lambda job_ids: calls.append(list(job_ids)))
    return runs, calls


def test_a_job_is_cancelled_with_the_last_of_its_trials(packed):
    (first, second, third, _), calls = packed
    write_json(second.result, {"step": 1, "metrics": {}})
    assert cancel([first]) == [first] and calls == [], "it looks for the file by itself"
    assert cancel([second, third]) == [third] and calls == [["7_1"]]


@pytest.mark.parametrize(
    ("final", "let_go", "attempts", "phase", "state", "retried"),
    [
        (None, False, [start(1)], "running", "running", None),
        (None, False, [start(1), end(1, 5, "killed", requeue=True)], "running", "requeued", None),
        (None, False, [], "running", "pending", None),
        (None, False, [start(1), end(1, 5, "preempted", requeue=True)], "waiting", "requeued", None),
        ("failure", False, [start(1), end(1, 5, "user code")], "running", "failed", True),
        ("failure", False, [start(1)], "running", "failed", False),
        ("cancelled", False, [start(1)], "running", "cancelled", False),
        ("cancelled", True, [start(1)], "running", "cancelled", True),
        # the job has yet to start, and then passes it over
        ("cancelled", False, [], "waiting", "cancelled", True),
        ("failure", False, [start(1), end(1, 5, "user code")], "waiting", "failed", True),
    ],
)
def test_a_trial_of_a_job_that_goes_on_with_others(
    tmp_path, monkeypatch, final, let_go, attempts, phase, state, retried
):
    run = make_trial(tmp_path, "a", job={**slurm_job("7_1"), "packed": True}, attempts=attempts)
    if final == "failure":
        write_json(run.failure, {"cause": "user code", "error": "x"})
    if final == "cancelled":
        write_json(run.cancelled, {"time": 0.0, **({"let_go": str(tmp_path / "s")} if let_go else {})})
    monkeypatch.setattr("runner.status.ask_slurm", lambda job_ids: {"7_1": Job(phase)})
    (row,) = read_statuses([run])
    assert row.state == state
    if retried is not None:
        jobs = ask_about({0: row.record})
        assert bool(plan_retry([row], [jobs[0]]).runs) == retried


def test_a_trial_is_of_its_last_submission(tmp_path):
    submission = SubmissionDir(tmp_path / "exp" / ".submissions" / "s")
    submission.path.mkdir(parents=True)
    run = make_trial(tmp_path, "a")
    submission.write_elements([[run]])
    now = time.time()
    assert is_ours(run, submission.path), "a job may start before its submission has written down which it is"
    append_row(run.jobs, {"time": now - 60, "submission": "earlier"})
    assert is_ours(run, submission.path)
    append_row(run.jobs, {"time": now + 60, "submission": "later"})
    assert not is_ours(run, submission.path)
    append_row(run.jobs, {"time": now + 90, "submission": f"/by/another/way/{submission.path.name}"})
    assert is_ours(run, submission.path), "a run root may be reached by a link, and have been by another"
    write_json(run.cancelled, {"time": now})
    assert not is_ours(run, submission.path)


def test_a_back_off_is_kept_across_launches_of_the_job(tmp_path):
    ended = end(1, 5, "killed", requeue=True, at=10, delay_seconds=60)
    run = make_trial(tmp_path, "a", job=slurm_job(), attempts=[start(1), ended])
    assert back_off_seconds(run, SUBMITTED + 30) == 40 and back_off_seconds(run, SUBMITTED + 80) == 0
    append_row(run.jobs, {**slurm_job("9"), "time": SUBMITTED + 20, "submission": "other"})
    assert back_off_seconds(run, SUBMITTED + 30) == 0, "a retry starts at once"
    running = make_trial(tmp_path, "b", job=slurm_job(), attempts=[start(1), ended, start(2, at=80)])
    assert back_off_seconds(running, SUBMITTED + 81) == 0


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """A controller that says in which state job 7_1 is, and what it was told to do."""
    tools = tmp_path / "tools"
    tools.mkdir()
    said = tools / "said"
    (tools / "scontrol").write_text(
        f'#!/bin/sh\n[ "$1" = show ] && exec echo JobId=7_1 JobState="$(cat {tools}/state)" Restarts=0\n'
        f'echo "$*" >> {said}\n'
    )
    (tools / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")

    def ask(state: str, runs: list[RunDir], exit_code: int = 137) -> list[str]:
        (tools / "state").write_text(state)
        submission = SubmissionDir(Path(runs[0].job_rows()[0]["submission"]))
        submission.write_elements([[], runs])
        assert pack_requeue.main(["end", str(submission.manifest), "1", "7_1", "7_1.0", str(exit_code), "3"]) == 0
        return said.read_text().splitlines() if said.exists() else []

    return ask


def member(tmp_path: Path, name: str, attempts: list[dict[str, Any]]) -> RunDir:
    submission = tmp_path / "exp" / ".submissions" / "s"
    submission.mkdir(parents=True, exist_ok=True)
    job = {**slurm_job("7_1"), "packed": True, "submission": str(submission)}
    return make_trial(tmp_path, name, job=job, attempts=attempts)


def test_a_job_whose_supervisor_was_killed_comes_back_and_each_trial_answers_for_itself(tmp_path, scontrol):
    began = {**start(1), "launch": "7_1.0.55"}
    ran = member(tmp_path, "a", [began])
    saved = member(tmp_path, "b", [began, end(1, 9, "terminated", requeue=True)])
    waited = member(tmp_path, "c", [])
    done = member(tmp_path, "d", [began])
    write_json(done.result, {"step": 1, "metrics": {}})
    assert scontrol("RUNNING", [ran, saved, waited, done]) == ["requeue 7_1"]
    last = ran.attempt_rows()[-1]
    assert last["cause"] == "killed" and last["requeue"] and last["attempt"] == 1
    assert len(saved.attempt_rows()) == 2 and not waited.attempt_rows() and len(done.attempt_rows()) == 1


def test_a_job_that_never_got_going_is_charged_to_all_until_none_is_left(tmp_path, scontrol):
    runs = [member(tmp_path, name, []) for name in "ab"]
    said = [scontrol("RUNNING", runs, exit_code=1) for _ in range(4)][-1]
    assert [[row["cause"] for row in run.attempt_rows()] for run in runs] == [["launch failed"] * 4] * 2
    assert all(run.failure.exists() for run in runs)
    assert said.count("requeue 7_1") == 3
    delays = [int(line.partition("now+")[2]) for line in said if "StartTime" in line]
    assert len(delays) == 2 and 58 <= delays[0] <= 60 and 298 <= delays[1] <= 300, "after 0 s, a minute, five"


def test_what_the_scheduler_has_decided_is_left_to_it(tmp_path, scontrol):
    run = member(tmp_path, "a", [{**start(1), "launch": "7_1.0.55"}])
    assert scontrol("COMPLETING", [run], exit_code=143) == []
    assert run.attempt_rows()[-1]["event"] == "end" and not run.attempt_rows()[-1]["requeue"]
    assert not run.failure.exists()
