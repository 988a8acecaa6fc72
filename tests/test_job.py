"""What submitit pickles, what a signal means, why a rank died, and the mask a job's processes start with."""

import errno
import os
import pickle
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import cloudpickle
import pytest
import submitit
import torch
from submitit.core.job_environment import SignalHandler
from submitit.helpers import DelayedSubmission
from submitit.local.local import LOCAL_REQUEUE_RETURN_CODE

from runner import launcher
from runner.attempt import SupersededError
from runner.errors import CheckpointError, ConfigError, DataError, NonFiniteLossError, SaveError, SubmissionError
from runner.files import write_json
from runner.job import (
    NO_MORE_TIMEOUTS,
    TrainJob,
    place_in_job,
    python_command,
    requeue,
)
from runner.preemption import Verdict
from runner.rendezvous import Place
from runner.rundir import RunDir
from runner.signs import classify
from runner.trainer import Outcome


def raised(error: BaseException, origin: BaseException) -> BaseException:
    """An error raised from another."""
    error.__cause__ = origin
    return error


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (NonFiniteLossError("the loss became nan"), "non-finite loss"),
        (ConfigError("train.lr: ..."), "configuration"),
        (DataError("no images"), "bad data"),
        (CheckpointError("all torn"), "bad checkpoint"),
        (raised(SaveError("step 7: rank 0 could not write its part"), FULL), "disk full"),
        (SaveError("step 7: rank 1 could not write its part: see its log"), "peer crash"),
        (raised(SaveError("step 7: could not commit"), SupersededError("by attempt 2")), "superseded"),
        (torch.OutOfMemoryError("CUDA out of memory"), "CUDA out of memory"),
        (MemoryError(), "host out of memory"),
        (torch.distributed.DistNetworkError("failed to recv"), "peer crash"),
        (RuntimeError("[../gloo/transport/tcp/pair.cc:538] Connection closed by peer [127.0.0.1]:27"), "peer crash"),
        (RuntimeError("Connection reset by peer"), "peer crash"),
        (RuntimeError("NCCL error: unhandled system error"), "peer crash"),
        (SupersededError("attempt 1 was superseded by attempt 2"), "superseded"),
        (SubmissionError("scontrol not found"), "user code"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "user code"),
        (raised(KeyError("x"), FULL), "user code"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else value,
)
def test_why_a_rank_died(error, cause):
    assert classify(error) == cause


@dataclass
class Environment:
    """What `submitit.JobEnvironment()` says in one task."""

    job_id: str = "12_3"
    global_rank: int = 0
    local_rank: int = 0
    num_tasks: int = 1
    hostnames: list[str] = field(default_factory=lambda: ["node1"])


def test_a_task_knows_its_place(monkeypatch):
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    place = place_in_job(Environment(global_rank=5, local_rank=1, num_tasks=8, hostnames=["node1", "node2"]))
    nodes = ("node1",) * 4 + ("node2",) * 4
    expected = Place(5, 8, 1, job_id="12_3", launch="12_3.0", address="node1", nodes=nodes, one_host=False)
    assert replace(place, launched=None) == expected
    assert place.launched is not None and place.launched <= time.time(), "when this process began"
    assert place_in_job(Environment()).one_host
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert place_in_job(Environment()).launch == "12_3.2", "another launch after a requeue"
    virtual = ["127.0.0.1", "127.0.0.2"]
    assert place_in_job(Environment(hostnames=virtual)).one_host, "virtual nodes of this host"


def test_the_pickle_is_small_and_light_to_load(tmp_path):
    """Unpickling happens before anybody listens to signals."""
    job = TrainJob(f"/home/somebody/runs/{'x' * 100}/0123456789")
    (tmp_path / "job.pkl").write_bytes(cloudpickle.dumps(DelayedSubmission(job)))
    assert (tmp_path / "job.pkl").stat().st_size < 1000
    code = f"""
import pickle, sys
submission = pickle.load(open({str(tmp_path / "job.pkl")!r}, "rb"))
print(submission.function.folder)
sys.exit("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.strip() == job.folder, done.stderr


def test_a_requeue_carries_the_folder_and_nothing_else(tmp_path):
    job = TrainJob(str(tmp_path))
    again = job.checkpoint()
    assert isinstance(again, DelayedSubmission) and again.function is job and not again.args and not again.kwargs
    assert len(cloudpickle.dumps(again)) < 1000
    assert pickle.loads(cloudpickle.dumps(again)).function == job


def test_a_requeue_survives_what_a_killed_one_left(tmp_path, monkeypatch):
    """submitit refuses to write its pickle while the half of an earlier one is there."""
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    monkeypatch.setenv("SUBMITIT_FOLDER", str(tmp_path))
    monkeypatch.setenv("SUBMITIT_LOCAL_JOB_ID", "77")
    environment = submitit.JobEnvironment()
    submission = DelayedSubmission(TrainJob("the folder"))
    submission.set_timeout(60, NO_MORE_TIMEOUTS)
    handler = SignalHandler(environment, environment.paths, submission).checkpoint_and_try_requeue
    half = tmp_path / "77_submitted.pkl.save_tmp"
    half.write_bytes(b"half of a pickle")
    with pytest.raises(SystemExit) as left:
        requeue(handler)
    assert left.value.code == LOCAL_REQUEUE_RETURN_CODE and not half.exists()
    assert DelayedSubmission.load(tmp_path / "77_submitted.pkl").function.folder == "the folder"


@pytest.mark.parametrize("final", ["result.json", "cancelled.json"])
def test_a_final_trial_is_not_trained_again(tmp_path, final):
    run = RunDir(tmp_path)
    write_json(run.path / final, {})
    TrainJob(str(tmp_path))()
    assert not run.attempts.exists() and not (tmp_path / "tokens").exists()


def test_a_trial_runs_in_the_folder_it_was_submitted_in(tmp_path, monkeypatch):
    """Whoever retries it may stand elsewhere, and a relative path of its config would be of other data."""
    submitted, elsewhere = (tmp_path / name for name in ("submitted", "elsewhere"))
    submitted.mkdir(), elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    seen = []
    monkeypatch.setattr(submitit, "JobEnvironment", lambda: None)
    monkeypatch.setattr("runner.job.place_in_job", lambda _: Place())

    def look(*_: object, **__: object) -> tuple[Outcome, None]:
        seen.append(Path.cwd())
        return Outcome(Verdict.GO_ON, 0, 0.0), None

    monkeypatch.setattr("runner.rank.run_rank", look)
    for folder in (submitted, tmp_path / "gone", None):
        run = RunDir(tmp_path / f"run{len(seen)}")
        run.path.mkdir()
        write_json(run.provenance, {} if folder is None else {"folder": str(folder)})
        monkeypatch.chdir(elsewhere)
        TrainJob(str(run.path))()
    assert seen == [submitted, elsewhere, elsewhere]


BLOCKED = "import signal; print(sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])))"


INNER = f"{BLOCKED}; import sys; print(sys.argv[1:])"
"""A stand-in for a runtime: it tells the mask it was started with, and the command that it is to run."""


def test_a_job_starts_with_its_signals_blocked():
    command = [*shlex.split(python_command()), "-u", "-c"]
    assert Path(command[3]) == Path(launcher.__file__)
    done = subprocess.run([*command, BLOCKED], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == f"{sorted([signal.SIGUSR2, signal.SIGTERM])}\n"


def test_a_container_starts_with_them_blocked_and_starts_python():
    command = shlex.split(python_command(None, f"nice -n 1 {shlex.quote(sys.executable)} -c {shlex.quote(INNER)}"))
    done = subprocess.run([*command, "x"], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == f"{sorted([signal.SIGUSR2, signal.SIGTERM])}\n{[sys.executable, 'x']}\n"
    assert python_command(None, "apptainer exec a.sif", "/opt/python").endswith(
        " --in apptainer exec a.sif /opt/python"
    )
    missing = subprocess.run([*shlex.split(python_command(None, "no_such_runtime a.sif")), "x"], capture_output=True)
    assert missing.returncode == 127 and b"runner: no_such_runtime: cannot be started: No such file" in missing.stderr


def test_a_signal_during_start_up_waits():
    """The process lives on, as the kernel sees it: both signals are blocked, and the one that came is pending."""
    command = [*shlex.split(python_command()), "-u", "-c", "print('up'); input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout
        assert process.stdout.readline() == "up\n"
        os.kill(process.pid, signal.SIGUSR2)
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
        masks = {name: int(status[name], 16) for name in ("SigBlk", "SigPnd", "ShdPnd")}
        process.stdin.write("\n")
        process.stdin.close()
        assert process.wait(30) == 0
    bits = {signum: 1 << (signum - 1) for signum in (signal.SIGUSR2, signal.SIGTERM)}
    assert all(masks["SigBlk"] & bit for bit in bits.values())
    assert (masks["SigPnd"] | masks["ShdPnd"]) & bits[signal.SIGUSR2]
