"""The command hook: each end is told once, whoever sees it; harmless whatever it does, whatever things are called."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runner.errors import ConfigError
from runner.files import append_row, write_json
from runner.notify import FEW, call, main, tell, tell_ended
from runner.processes import is_running
from runner.profile import load_profile
from runner.retry import set_aside
from runner.rundir import RunDir
from runner.status import read_statuses
from tests.slurm_cluster import wait_for
from tests.trials import local_job, make_trial, slurm_job

RESULT = {"state": "done", "step": 500, "metrics": {}}
FAILURE = {"cause": "user code", "rank": 1, "error": "ValueError: no"}
SAY = 'echo "$RUNNER_EVENT $RUNNER_EXPERIMENT/$RUNNER_TRIAL $RUNNER_STATE: $RUNNER_CAUSE" >> "$TOLD"'


@pytest.fixture
def told(tmp_path, monkeypatch):
    """What the command was called with, as a function."""
    path = tmp_path / "told"
    monkeypatch.setenv("TOLD", str(path))
    return lambda: path.read_text().splitlines() if path.exists() else []


def make_sweep(root: Path, count: int, command: str = SAY) -> list[RunDir]:
    """Trials that were submitted with such a command, none of which has ended."""
    folder = root / "exp" / ".submissions" / "first"
    folder.mkdir(parents=True, mode=0o700)
    (folder / "profile.yaml").write_text(f"cluster: local\nnotify: '{command}'\n")
    runs = [make_trial(root, f"t{i}", job={**local_job(os.getpid()), "submission": str(folder)}) for i in range(count)]
    (folder / "trials.txt").write_text("".join(f"{run.path}\n" for run in runs))
    return runs


def test_each_end_is_told_once_whoever_sees_it(tmp_path, told):
    runs = make_sweep(tmp_path, 3)
    tell(runs[0])
    assert told() == [], "it goes on"
    write_json(runs[0].result, RESULT)
    write_json(runs[1].failure, FAILURE)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(tell, [*runs[:2]] * 8))
    assert sorted(told()) == ["trial exp/t0 done: done", "trial exp/t1 failed: user code"]
    write_json(runs[2].cancelled, {"time": 1.0})
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(tell, runs * 8))
    assert told()[2:] == ["sweep exp/ failed: 1 done, 1 failed, 1 cancelled"]
    assert "trial done: exit code 0" in (runs[0].logs / "notify.log").read_text()
    assert "sweep failed: exit code 0" in (tmp_path / "exp" / ".submissions" / "notify.log").read_text()


def test_what_is_retried_may_end_once_more(tmp_path, told):
    (run,) = make_sweep(tmp_path, 1)
    write_json(run.failure, FAILURE)
    tell(run)
    set_aside(run)
    tell(run)
    second = tmp_path / "exp" / ".submissions" / "second"
    os.rename(run.path.parent / ".submissions" / "first", second)
    append_row(run.jobs, {"time": 5.0, "submission": str(second), **local_job(os.getpid())})
    write_json(run.result, RESULT)
    for _ in range(2):
        tell(run)
    assert told() == [
        "trial exp/t0 failed: user code",
        "sweep exp/ failed: 1 failed",
        "trial exp/t0 done: done",
        "sweep exp/ done: 1 done",
    ]


def test_a_job_that_ended_without_a_word_is_told_of_by_those_after_it(tmp_path, told):
    runs = make_sweep(tmp_path, 3)
    folder = runs[0].job_rows()[-1]["submission"]
    append_row(runs[2].jobs, {"time": 5.0, "submission": folder, **local_job(2**22 + 1)})
    write_json(runs[0].result, RESULT)
    tell(runs[0])
    assert told() == ["trial exp/t0 done: done"], "t1 goes on"
    write_json(runs[1].result, RESULT)
    tell(runs[1])
    lost = f"its local queue (pid {2**22 + 1}) has ended; `runner retry` goes on from the last checkpoint"
    assert told()[1:] == [
        "trial exp/t1 done: done",
        f"trial exp/t2 failed: {lost}",
        "sweep exp/ failed: 2 done, 1 failed",
    ]
    tell_ended(read_statuses(runs))
    assert len(told()) == 4


def test_whoever_waited_tells_of_what_nobody_else_could(tmp_path, told):
    (run,) = make_sweep(tmp_path, 1)
    append_row(run.jobs, {"time": 5.0, **local_job(2**22 + 1), "submission": run.job_rows()[-1]["submission"]})
    other = make_trial(tmp_path, "alone", "other", job=local_job(2**22 + 1))
    tell_ended(read_statuses([other, run]))
    assert [line.split(":")[0] for line in told()] == ["trial exp/t0 failed", "sweep exp/ failed"]


def test_a_sweep_whose_trials_are_not_all_submitted_goes_on(tmp_path, told):
    (run,) = make_sweep(tmp_path, 1)
    make_trial(tmp_path, "t9")
    write_json(run.result, RESULT)
    tell(run)
    assert told() == ["trial exp/t0 done: done"]


def test_a_scheduler_is_asked_about_few_only(tmp_path, told, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    runs = make_sweep(tmp_path, FEW + 2)
    asked = []
    monkeypatch.setattr("runner.status.ask_slurm", lambda ids: asked.append(ids) or {})
    for run in runs:
        append_row(run.jobs, {"time": 5.0, "submission": run.job_rows()[-1]["submission"], **slurm_job("7_0")})
    write_json(runs[0].result, RESULT)
    tell(runs[0])
    assert not asked
    write_json(runs[1].result, RESULT)
    tell(runs[1])
    assert asked == [["7_0"]]


def test_names_do_not_become_commands(tmp_path, told):
    evil = "$(touch pwned)`touch pwned`;touch pwned"
    facts = {"EVENT": "trial", "EXPERIMENT": evil, "TRIAL": "'\n\x1b[2J", "STATE": "done", "CAUSE": evil}
    call(f"{SAY}; touch $RUNNER_TRIAL", facts | {"FOLDER": str(tmp_path)}, tmp_path / "log", 30)
    assert told() == [f"trial {evil}/'  [2J done: {evil}"]
    assert not list(tmp_path.rglob("pwned"))


def test_whatever_the_command_does_is_in_a_log(tmp_path):
    facts = {"EVENT": "trial", "STATE": "done", "FOLDER": str(tmp_path)}
    log = tmp_path / "log"
    call("echo out; echo https://u:hunter2@h >&2; exit 7", facts, log, 30)
    call("no-such-command", facts, log, 30)
    began = time.monotonic()
    call("sleep 300 & echo $!; wait", facts, log, 0.5)
    assert time.monotonic() - began < 20
    lines = log.read_text().splitlines()
    assert lines[0].endswith("trial done: exit code 7") and lines[1:3] == ["out", "https://***@h"]
    assert lines[3].endswith("exit code 127") and "no-such-command" in lines[4]
    assert lines[5].endswith("killed after 0.5 s")
    wait_for(lambda: is_running(int(lines[6])), 20, "the child to be gone", until=lambda alive: not alive)


def test_what_others_could_write_is_not_run(tmp_path, told):
    (run,) = make_sweep(tmp_path, 1)
    write_json(run.result, RESULT)
    submission = Path(run.job_rows()[-1]["submission"])
    submission.chmod(0o777)
    with pytest.raises(ConfigError, match="write"):
        tell(run)
    with pytest.raises(SystemExit, match="write"):
        main(submission, 0)
    tell_ended(read_statuses([run]))
    assert told() == []
    site = tmp_path / "site.yaml"
    site.write_text("{cluster: local, notify: 'echo'}")
    site.chmod(0o666)
    with pytest.raises(ConfigError, match="notify: everybody may write to this file"):
        load_profile(site)


def test_an_earlier_submission_has_nothing_to_say(tmp_path, told):
    runs = make_sweep(tmp_path, 2)
    submission = Path(runs[0].job_rows()[-1]["submission"])
    for run in runs:
        write_json(run.result, RESULT)
    append_row(runs[0].jobs, {"time": 5.0, "submission": "/elsewhere", **local_job(1)})
    command = [sys.executable, "-m", "runner.notify", str(submission)]
    assert subprocess.run([*command, "0"], timeout=60).returncode == 0 and told() == []
    assert subprocess.run([*command, "1"], timeout=60).returncode == 0
    assert told() == ["trial exp/t1 done: done", "sweep exp/ done: 2 done"]


def test_a_sweep_is_told_of_though_no_rank_of_it_ever_started(tmp_path, told, capsys):
    runs = make_sweep(tmp_path, 2)
    for run in runs:
        run.logs.rmdir()
    runs[1].logs.touch()
    for index, run in enumerate(runs):
        write_json(run.failure, {"cause": "dependency"})
        main(Path(run.job_rows()[-1]["submission"]), index)
    assert told() == [
        "trial exp/t0 failed: dependency",
        "trial exp/t1 failed: dependency",
        "sweep exp/ failed: 2 failed",
    ]
    assert "trial failed: exit code 0" in (runs[0].logs / "notify.log").read_text()
    assert runs[0].logs.stat().st_mode & 0o777 == 0o777 & ~runs[0].umask()
    assert capsys.readouterr().err == f"runner: {runs[1].logs / 'notify.log'}: File exists\n"
