"""A trial that does not get on is ended with a reason: real hangs of real ranks, and the decisions as data."""

import contextlib
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from runner import loader
from runner.attempt import Attempt, claim
from runner.debug import supervise
from runner.faults import Fault, Proof
from runner.files import read_json
from runner.heartbeat import Beat, Pulse, describe, find_behind, is_excused, read_beats, write_beat
from runner.methods.scl import SCL
from runner.peers import explain
from runner.preemption import Preemption, Verdict
from runner.processes import EXIT_TRY_AGAIN, Stragglers, is_running
from runner.rank import run_rank
from runner.rendezvous import Place
from runner.requeue import judge, read_crashes
from runner.rundir import RunDir
from runner.watchdog import LONG, HangError, Limits, Watchdog
from tests.experiments import prepare_run
from tests.ranks import CONTEXT

LIMIT_SECONDS = 8.0
# A busy machine must not stretch the limit by its slow steps.
LIMITS = Limits(step_seconds=LIMIT_SECONDS, medians=1.0, beat_seconds=0.2)
HANG_STEP = 4
GROUPS = {"data": {"limit": 128}, "train": {"steps": 100_000, "workers": 1}, "resources": {"ranks": 2}}


def stop_at_a_step(rank: int) -> None:
    """Nothing but the fault: this rank stops itself."""


def loop_for_ever(rank: int) -> None:
    def after_fit_step(self: Any, step: int) -> None:
        while rank == 1 and step >= HANG_STEP:
            pass

    SCL.after_fit_step = after_fit_step


def miss_a_collective(rank: int) -> None:
    def after_fit_step(self: Any, step: int) -> None:
        if step == HANG_STEP and rank == 0:
            torch.distributed.barrier(self.lonely)

    def before_fit(self: Any) -> None:
        self.lonely = torch.distributed.new_group(backend="gloo")

    SCL.after_fit_step, SCL.before_fit = after_fit_step, before_fit


def read_for_ever(rank: int) -> None:
    real, seen = loader._Gather.__getitem__, []

    def take(self: Any, ids: torch.Tensor) -> loader.Part:
        seen.append(0)
        if rank == 1 and len(seen) > HANG_STEP and multiprocessing.current_process().daemon:
            threading.Event().wait()
        return real(self, ids)

    loader._Gather.__getitem__ = take


def rank_body(folder: str, rank: int, prepare: Callable[[int], None]) -> None:
    """One rank of a job, up to the exit code that a job has."""
    # Loader workers are forks, as in a job.
    multiprocessing.set_start_method("fork", force=True)
    prepare(rank)
    place = "step.end" if prepare is stop_at_a_step else "end"
    proof = Proof((Fault(place, "STOP", rank=1, nth=HANG_STEP),))
    run_rank(RunDir(Path(folder)), Place(rank, 2, rank), proof=proof, limits=LIMITS)


@dataclass(frozen=True)
class Hang:
    """How a trial that hung ended."""

    run: RunDir
    took_seconds: float
    """From the last progress of any rank to the end of the last process."""

    lag_seconds: float
    """How much longer than asked a tenth of a second took at worst: what a busy machine adds at every turn."""

    exit_codes: list[int | None]
    left: list[psutil.Process]


CASES = {
    "stopped": stop_at_a_step,
    "endless loop": loop_for_ever,
    "missed collective": miss_a_collective,
    "silent loader": read_for_ever,
}


@pytest.fixture(scope="module")
def hangs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Hang]:
    """All of them at once: they wait, mostly."""
    runs = {case: prepare_run(tmp_path_factory.mktemp("hang"), **GROUPS) for case in CASES}
    started = {
        case: [CONTEXT.Process(target=rank_body, args=(str(run.path), rank, CASES[case])) for rank in range(2)]
        for case, run in runs.items()
    }
    for process in itertools.chain(*started.values()):
        process.start()
    try:
        with ThreadPoolExecutor(len(CASES)) as pool:
            return dict(zip(CASES, pool.map(observe, runs.values(), started.values()), strict=True))
    finally:
        for process in itertools.chain(*started.values()):
            process.kill()


def observe(run: RunDir, ranks: list[Any]) -> Hang:
    """Do what launches ranks does, and remember every process there was."""
    last, lag, family, deadline = 0.0, 0.0, set[psutil.Process](), time.monotonic() + 120
    while not run.hang(1).exists():
        assert time.monotonic() < deadline and any(process.is_alive() for process in ranks), "no hang seen"
        for process in ranks:
            with contextlib.suppress(psutil.Error):
                family.update(psutil.Process(process.pid).children(recursive=True))
        last = max([last, *(beat.since for beat in read_beats(Attempt(run, 1), 2) if beat.passed > 0)])
        began = time.monotonic()
        time.sleep(0.1)
        lag = max(lag, time.monotonic() - began - 0.1)
    supervise(ranks, Stragglers(patience_seconds=0.2, kill_seconds=5))
    took = time.time() - last
    psutil.wait_procs(family, 5)
    codes = [process.exitcode for process in ranks]
    return Hang(run, took, lag, codes, [each for each in family if is_running(each.pid)])


@pytest.mark.slow
@pytest.mark.ddp
@pytest.mark.parametrize(
    ("case", "culprit", "where", "frame"),
    [
        # It is woken up to be ended, and may have got on, and out of the loop, before it looks.
        ("stopped", 1, "", "in _train"),
        ("endless loop", 1, "update", "in after_fit_step"),
        ("missed collective", 0, "update", "in barrier"),
        ("silent loader", 1, "step", "in _try_get_data"),
    ],
)
def test_a_hang_ends_with_its_stacks_and_its_culprit(
    hangs: dict[str, Hang], case: str, culprit: int, where: str, frame: str
) -> None:
    run = hangs[case].run
    assert hangs[case].took_seconds <= 1.2 * LIMIT_SECONDS + 10 * hangs[case].lag_seconds
    assert hangs[case].exit_codes == [EXIT_TRY_AGAIN] * 2 and not hangs[case].left

    hang = read_json(run.hang(1))
    assert hang["rank"] == culprit and f" s in {where}" in hang["error"], hang
    for rank in range(2):
        log = run.log(1, rank).read_text()
        assert f"runner: hang: {hang['error']}" in log
        assert "in _train" in log and "in look" in log, "all threads: the main one and the watchdog's"
    assert frame in run.log(1, culprit).read_text()
    crashes = {crash["rank"]: crash for crash in read_crashes(run, 1)}
    assert crashes[culprit]["cause"] == "hang" and hang["error"] in crashes[culprit]["error"]
    other = crashes[1 - culprit]
    assert other["cause"] == "peer crash" and f"because of rank {culprit}: hang: rank {culprit}" in other["error"]
    assert judge(run, "debug", EXIT_TRY_AGAIN, "LOCAL", max_failures=1).action == "requeue"


@pytest.mark.parametrize(
    ("place", "typical", "seconds"),
    [
        ("step", None, 600),
        ("forward", 0.05, 60),
        ("backward", 10.0, 200),
        ("evaluate.batch", None, 600),
        ("evaluate.batch", 4.0, 80),
        ("checkpoint", None, 600),
        ("start", None, 600),
        *((place, None, 3600) for place in LONG),
    ],
)
def test_patience_by_place(place: str, typical: float | None, seconds: float) -> None:
    assert Limits().patience_seconds(place, typical) == seconds


def test_a_pulse_times_what_comes_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("runner.heartbeat.time.monotonic", lambda: clock[0])
    pulse = Pulse()
    for step in range(9):
        pulse.at("step", step)
        assert (pulse.typical_seconds("forward") is None) == (step == 0), "not before a step was whole"
        clock[0] += 1
        pulse.at("forward")
        clock[0] += 2 if step != 5 else 500
    assert pulse.typical_seconds("backward") == 3.0 and pulse.typical_seconds("checkpoint") is None
    assert pulse.typical_seconds("evaluate.batch") is None, "of another kind"
    assert pulse.last == (18, "forward", 8, clock[0] - 2)


def beat(rank: int, passed: int, since: float = 0.0, at: float = 0.0) -> Beat:
    return Beat(rank, "host", 1, passed, "forward", 7, since, at, patience=60.0)


@pytest.mark.parametrize(
    ("beats", "rank"),
    [
        ([beat(0, 9), beat(1, 8), beat(2, 9)], 1),
        ([beat(0, 9, at=5.0), beat(1, 9, at=4.0)], 1),
        ([beat(0, 9, since=2.0), beat(1, 9, since=1.0)], 1),
        ([beat(0, 0), beat(1, -1)], 1),
    ],
    ids=["least progress", "no newer heartbeat", "longest there", "never heard of"],
)
def test_who_is_behind(beats: list[Beat], rank: int) -> None:
    assert find_behind(beats).rank == rank
    assert describe(beat(1, 8, since=10.0), now=71.4) == "rank 1 made no step for 61 s in forward after step 7"


@pytest.mark.parametrize(
    ("since", "at", "unchanged", "excused"),
    [(0.0, 59.0, 1.0, True), (0.0, 60.0, 1.0, False), (0.0, 30.0, 9.1, False)],
    ids=["lives and may be there", "for too long", "stopped"],
)
def test_who_is_behind_may_have_longer_than_those_who_wait(
    since: float, at: float, unchanged: float, excused: bool
) -> None:
    assert is_excused(beat(0, 3, since, at), unchanged, fresh_seconds=9.0) == excused


@pytest.mark.parametrize("skew_seconds", [-600.0, 0.0, 600.0])
def test_a_clock_that_is_wrong_makes_nobody_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skew_seconds) -> None:
    """Rank 1 lives on a machine whose clock is off, at a place where it may stay; once it is silent it is told of."""
    run, ended = RunDir(tmp_path), list[Any]()
    waiting, slow = Pulse(), Pulse()
    watchdog = Watchdog(claim(run), 2, waiting, Preemption(), Limits(slow_seconds=1.0, beat_seconds=1.0))
    monkeypatch.setattr(watchdog, "_end", ended.append)
    waiting.at("step", 1)
    real = time.time

    def look_after(seconds: float, is_alive: bool) -> bool:
        if is_alive:
            with monkeypatch.context() as patch:
                patch.setattr(time, "time", lambda: real() + skew_seconds + seconds)
                write_beat(Attempt(run, 1, rank=1), slow.last, 3600.0)
        watchdog.look(time.monotonic() + seconds)
        return bool(ended)

    assert not any(look_after(10.0 + second, is_alive=True) for second in range(20))
    assert [look_after(second, is_alive=False) for second in (30.0, 31.0, 34.0)] == [False, False, True]
    assert ended[0]["rank"] == 1


def test_heartbeats_are_written_and_read_back(tmp_path: Path) -> None:
    attempt, pulse = claim(RunDir(tmp_path)), Pulse()
    pulse.at("forward", 3)
    written = write_beat(attempt, pulse.last, 60.0)
    mine, other = read_beats(attempt, 2)
    assert mine == written and (mine.pid, mine.place, mine.step, mine.passed) == (os.getpid(), "forward", 3, 1)
    assert (other.rank, other.passed) == (1, -1)
    (tmp_path / "tokens" / "00001" / "heartbeat.rank_1.json").write_text('{"rank": 1, "ho')
    assert read_beats(attempt, 2)[1].passed == -1, "torn"


def test_a_superseded_attempt_knows_at_its_next_heartbeat(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    attempt, preemption = claim(run), Preemption()
    watchdog = Watchdog(attempt, 1, Pulse(), preemption, Limits())
    watchdog.look(time.monotonic())
    assert preemption.flag is Verdict.GO_ON
    claim(run)
    Watchdog(Attempt(run, 1, rank=1), 2, Pulse(), preemption, Limits()).look(time.monotonic())
    assert preemption.flag is Verdict.GO_ON, "rank 0 looks for all"
    watchdog.look(time.monotonic())
    preemption.raise_flag(signal.SIGUSR2)
    assert preemption.flag is Verdict.LEAVE, "whatever else is asked for"


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"rank": 1, "error": HangError("stuck"), "cause": "hang"}, "because of rank 1: hang: HangError: stuck"),
        ({"rank": 1, "error": KeyError("x"), "cause": "user code"}, "because of rank 1: user code: KeyError: 'x'"),
        (None, "because of rank 1: killed: it ended without a word"),
    ],
)
def test_a_lost_peer_is_told_by_its_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: dict[str, Any] | None, words: str
) -> None:
    monkeypatch.setattr("runner.peers.PATIENCE_SECONDS", 0.0)
    attempt = claim(RunDir(tmp_path))
    lost = RuntimeError("[pair.cc:538] Connection closed by peer [127.0.0.1]:27")
    assert "Connection closed by peer" in str(explain(attempt, 2, lost)), "nothing better is known"
    child = subprocess.Popen(["true"])
    child.wait()
    path = attempt.run.beat(1, 1)
    write_beat(Attempt(attempt.run, 1, rank=1), Pulse().last, 60.0)
    path.write_text(path.read_text().replace(f'"pid": {os.getpid()}', f'"pid": {child.pid}'))
    Attempt(attempt.run, 1, rank=2).record_crash(lost, "peer crash", None)
    if record:
        Attempt(attempt.run, 1, record["rank"]).record_crash(record["error"], record["cause"], 3)
    assert str(explain(attempt, 3, lost)) == words


ALONE = """
import ctypes, sys, time
from pathlib import Path
from runner.attempt import claim
from runner.rundir import RunDir
from runner.watchdog import Limits, guarding
limits = Limits(step_seconds=0.8, beat_seconds=0.1, stuck_seconds=float(sys.argv[2]))
with guarding(claim(RunDir(Path(sys.argv[1]))), 1, None, limits) as pulse:
    for step in range(100):
        pulse.at("step", step)
        time.sleep(0.01)
    print("ready", flush=True)
    if sys.argv[3] == "stuck":
        ctypes.PyDLL(None).sleep(60)  # PyDLL keeps Python's lock
    for step in range(100, 200):
        pulse.at("step", step)
        time.sleep(0.01)
print("done", flush=True)
"""


def start_alone(folder: Path, stuck_seconds: float, how: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", ALONE, str(folder), str(stuck_seconds), how]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def test_code_that_keeps_pythons_lock_is_ended_by_a_clock_in_c(tmp_path: Path) -> None:
    process = start_alone(tmp_path, 2.0, "stuck")
    _, error = process.communicate(timeout=50)
    assert process.returncode == 1 and "Timeout" in error and 'File "<string>", line 14 in <module>' in error


def test_a_process_that_was_suspended_goes_on(tmp_path: Path) -> None:
    """As Slurm does with gangs of jobs: longer than the limit of a step."""
    process = start_alone(tmp_path, 60.0, "suspended")
    process.send_signal(signal.SIGSTOP)
    time.sleep(1.5)
    process.send_signal(signal.SIGCONT)
    output, error = process.communicate(timeout=50)
    assert (process.returncode, output, error) == (0, "done\n", "")


FULL = """
import os, sys, time
from pathlib import Path
from runner.attempt import claim
from runner.preemption import Preemption
from runner.rundir import RunDir
from runner.saving import tell_failure
from runner.time_limit import TimeLimit, keeping
from runner.watchdog import Limits, guarding
full = os.open("/dev/full", os.O_WRONLY)
os.dup2(full, 1), os.dup2(full, 2)
tell_failure(None, OSError("no space left"))
preemption = Preemption()
with keeping(TimeLimit(time.time() - 1), preemption, every_seconds=0.01):
    while not preemption.flag:
        time.sleep(0.01)
limits = Limits(slow_seconds=0.2, beat_seconds=0.1)
with guarding(claim(RunDir(Path(sys.argv[1]))), 1, preemption, limits):
    time.sleep(50)
"""


def test_a_log_on_a_full_disk_keeps_nobody_from_noticing(tmp_path: Path) -> None:
    """A failed save does not end training; the end of the time and a hang are noticed all the same."""
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], timeout=50)
    assert done.returncode == EXIT_TRY_AGAIN


def test_whoever_outlives_a_member_of_its_group_is_ended_unless_that_ended_well() -> None:
    sleepers = [psutil.Popen(["sleep", "60"]) for _ in range(3)]
    stragglers = Stragglers(patience_seconds=0.0, kill_seconds=0.0, calm_seconds=1000.0)
    stragglers.look(sleepers, lambda: False)
    stragglers.look(sleepers, lambda: False)
    assert all(is_running(sleeper.pid) for sleeper in sleepers), "all or nobody"
    gone, stopped, other = sleepers
    stopped.suspend()
    gone.kill()
    gone.wait()
    stragglers.look([stopped, other], lambda: True)
    assert is_running(stopped.pid) and is_running(other.pid), "no hurry"
    stragglers.look([stopped, other], lambda: False)
    assert stopped.wait(10) < 0 and other.wait(10) < 0
