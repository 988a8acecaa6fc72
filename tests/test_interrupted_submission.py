"""A client that is killed between any two steps of a submission: the next one goes on, and nothing runs twice."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from runner import dispatch, files, slurm
from runner import submit as submit_module
from runner.cli import run as cli
from runner.dispatch import send
from runner.faults import Fault, Faults
from runner.files import write_json
from runner.local_queue import start
from runner.request import read_request
from runner.rundir import find_trials
from runner.status import is_alive
from runner.submit import submit
from tests.clients import in_child
from tests.experiments import write_experiment
from tests.slurm_cluster import GONE_SECONDS, wait_for

SMALL = {"data": {"limit": 128}, "train": {"steps": 4}, "schedule": {"warmup_steps": 0}}


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def after(work: Callable[..., Any], passage: int = 1) -> Callable[..., Any]:
    """The same function, in a process that is killed when it has returned so many times."""
    passages = 0

    def dying(*values: Any, **named: Any) -> Any:
        nonlocal passages
        result, passages = work(*values, **named), passages + 1
        return die() if passages == passage else result

    return dying


@pytest.fixture
def killed(tmp_path, monkeypatch) -> Iterator[Callable[..., None]]:
    """Submits tiny.yaml by a client that a fault, or a function put in the place of another, kills."""
    monkeypatch.chdir(tmp_path)
    write_experiment(tmp_path, sweep={"seeds": [0, 1, 2]}, **SMALL)
    Path("local.yaml").write_text("{cluster: local, parallel: 3}")
    # One folder after the other, so that it is known which are there when the client dies.
    monkeypatch.setattr(files, "THREADS", 1)

    def kill(fault: Fault | None = None, module: Any = None, **functions: Callable[..., Any]) -> None:
        def work() -> None:
            for name, function in functions.items():
                setattr(module, name, function)
            faults = Faults([fault] if fault else [])
            submit(Path("tiny.yaml"), [], "local.yaml", Path("runs"), False, ["runner"], faults)

        assert in_child(work) == -signal.SIGKILL

    yield kill
    end_queues(tmp_path)


def queues(folder: Path) -> list[psutil.Process]:
    """The local queues of a run root."""
    found = []
    for process in psutil.process_iter():
        try:
            if "runner.local_queue" in process.cmdline() and str(folder) in process.cmdline()[-1]:
                found.append(process)
        except psutil.Error:
            continue
    return found


def end_queues(folder: Path) -> None:
    """Those that wait in vain for the list of their trials would do so for a minute."""
    processes = queues(folder)
    for process in processes:
        process.terminate()
    # One that is just ending has no command line any more, and lives all the same.
    wait_for(
        lambda: [process for process in processes if is_alive(process.pid, process.create_time())],
        GONE_SECONDS,
        "the queues to end",
        until=lambda left: not left,
    )


def states() -> dict[str, str]:
    plan = read_request(Path("tiny.yaml"), [], "local.yaml", Path("runs")).plan()
    return {item.trial: item.state for item in plan.items}


@pytest.mark.slow
def test_each_trial_runs_once_however_often_the_client_is_killed(tmp_path, capfd, killed):
    """On a real local queue: six clients are killed, each further on than the last; the seventh has nothing to do."""
    killed(Fault("submit.folder", "KILL", nth=2))
    assert len(find_trials(Path("runs/tiny"))) == 1
    killed(Fault("submit.config", "KILL", nth=2))
    assert [len(find_trials(Path("runs/tiny"))), len(list(Path("runs/tiny").glob("[!.]*")))] == [1, 2]
    killed(Fault("submit.send", "KILL"))
    runs = find_trials(Path("runs/tiny"))
    assert len(runs) == 3 and set(states().values()) == {"new"}

    killed(module=dispatch, start=after(start))
    assert not any(run.jobs.exists() for run in runs), "a queue was started that nobody has written down"
    assert set(states().values()) == {"new"} and len(queues(tmp_path)) == 1

    def send_half(chosen: list[Any], *where: Any) -> None:
        send(chosen[:1], *where)
        die()

    killed(module=submit_module, send=send_half)
    assert sorted(state == "new" for state in states().values()) == [False, True, True]
    killed(Fault("submit.end", "KILL"))
    assert "new" not in states().values() and Path("runs/tiny/.lock").exists()
    assert in_child(lambda: cli(["submit", "tiny.yaml", "--on", "local.yaml"])) == 0
    assert capfd.readouterr().out.splitlines()[-1] == "tiny: 3 trials, 0 to submit"

    wait_for(lambda: all(run.result.exists() for run in runs), 120, "three results")
    for run in runs:
        assert len(run.job_rows()) == 1
        assert [row["event"] for row in run.attempt_rows()] == ["start", "end"]


def test_a_queue_that_has_half_of_its_trials_written_down_runs_none_of_them(tmp_path, killed, capfd):
    """Its trials are submitted again as soon as it has ended, and not before."""
    killed(module=dispatch, append_row=after(dispatch.append_row, 2))
    runs = find_trials(Path("runs/tiny"))
    assert sorted(states().values()) == ["new", "pending", "pending"]
    end_queues(tmp_path)
    assert sorted(states().values()) == ["new", "unknown", "unknown"]
    plan = read_request(Path("tiny.yaml"), [], "local.yaml", Path("runs")).plan()
    assert len(plan.of("submit")) == 3 and not any(run.attempts.exists() for run in runs)


SBATCH = """#!/bin/sh
# The real one; with FATAL set, whoever called it is killed once the job is in the queue.
case "$*" in *--test-only*) exec {sbatch} "$@" ;; esac
{sbatch} --hold "$@" || exit
[ -z "$FATAL" ] || kill -9 $PPID
"""


@pytest.fixture
def held_slurm(slurm, tmp_path, monkeypatch) -> Iterator[None]:
    """A real Slurm in which nothing starts."""
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "sbatch"
    fake.write_text(SBATCH.format(sbatch=shutil.which("sbatch")))
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    Path("site.yaml").write_text("{cluster: slurm, partition: low, time_minutes: 30}")
    yield
    jobs = [row["job_id"] for run in find_trials(Path("runs/tiny")) for row in run.job_rows()]
    slurm_jobs = [*jobs, *waiting(tmp_path)]
    if slurm_jobs:
        subprocess.run(["scancel", *slurm_jobs], check=True)


def waiting(folder: Path) -> list[str]:
    """The jobs of this test that are in the queue."""
    ours = [job for job, script in slurm.scripts().items() if script.startswith(str(folder))]
    return sorted(job for job, info in slurm.squeue(ours).items() if info.state == "PENDING") if ours else []


def test_no_trial_has_two_jobs_when_a_client_dies_after_sbatch(held_slurm, tmp_path, monkeypatch, capfd):
    """On a real Slurm: its number was never read; then read and not written down for the trials, of a retry."""
    write_experiment(tmp_path, sweep={"seeds": [0, 1]}, **SMALL)
    command = ["submit", "tiny.yaml", "--on", "site.yaml"]

    def last_words(words: list[str]) -> str:
        assert in_child(lambda: cli(words)) == 0
        return capfd.readouterr().out.splitlines()[-1]

    monkeypatch.setenv("FATAL", "1")
    assert in_child(lambda: cli(command)) == -signal.SIGKILL
    monkeypatch.delenv("FATAL")
    lost = waiting(tmp_path)
    assert len(lost) == 2 and not any(run.jobs.exists() for run in find_trials(Path("runs/tiny")))

    # All that they need was there before sbatch was asked, so they are the trials' now.
    assert last_words(command) == "tiny: 2 trials, 0 to submit"
    runs = find_trials(Path("runs/tiny"))
    assert last_words(["plan", *command[1:]]) == "tiny: 2 trials in the file: 2 alive; nothing to do"
    assert waiting(tmp_path) == lost == sorted(row["job_id"] for run in runs for row in run.job_rows())

    for run in runs:
        write_json(run.failure, {"cause": "killed", "error": "x"})
    slurm.cancel(lost)
    wait_for(lambda: not waiting(tmp_path), 30, "the jobs to be gone")
    assert in_child(lambda: dying(["retry", "tiny"], dispatch, append_row=die)) == -signal.SIGKILL
    again = waiting(tmp_path)
    assert len(again) == 2
    assert last_words(["retry", "tiny"]) == "nothing to retry" and waiting(tmp_path) == again
    assert [len(run.job_rows()) for run in runs] == [2, 2]


def dying(words: list[str], module: Any, **functions: Callable[..., Any]) -> int:
    """A command line in which functions of a module are replaced; for a child process."""
    for name, function in functions.items():
        setattr(module, name, function)
    return cli(words)
