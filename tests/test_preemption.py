"""A signal is noticed at once, whatever the main thread does, and all ranks leave at the same step."""

import errno
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from runner import preemption as preemption_module
from runner.group import Group
from runner.preemption import (
    MAX_STEPS_BETWEEN_POLLS,
    Answer,
    Interrupted,
    Preemption,
    Verdict,
    heeding,
    signals_blocked,
    watching,
)
from tests.benchmarks.bench_signal import measure_delays
from tests.ranks import run_ranks


def test_usr2_asks_for_a_requeue_and_term_to_save():
    for signum, verdict in [(signal.SIGUSR2, Verdict.REQUEUE), (signal.SIGTERM, Verdict.SAVE)]:
        with watching() as preemption:
            os.kill(os.getpid(), signum)
            deadline = time.monotonic() + 10
            while not preemption.flag and time.monotonic() < deadline:
                os.sched_yield()
            assert preemption.flag is verdict
            assert preemption.first_signal is not None
        signal.set_wakeup_fd(-1)
        signal.signal(signum, signal.SIG_DFL)


def test_the_larger_wish_wins_and_stays():
    preemption = Preemption()
    preemption.raise_flag(signal.SIGUSR2)
    first = preemption.first_signal
    preemption.raise_flag(signal.SIGTERM)
    assert preemption.flag is Verdict.REQUEUE and preemption.first_signal == first


def test_a_file_that_says_cancelled_is_heeded_without_a_signal(tmp_path):
    preemption = Preemption()
    with heeding(tmp_path / "cancelled.json", preemption, every_seconds=0.01):
        assert preemption.flag is Verdict.GO_ON
        (tmp_path / "cancelled.json").touch()
        deadline = time.monotonic() + 10
        while not preemption.flag and time.monotonic() < deadline:
            os.sched_yield()
    assert preemption.flag is Verdict.SAVE


def test_a_file_server_that_is_away_for_a_moment_hides_no_cancellation(tmp_path):
    looks = []

    class Away(type(tmp_path)):
        def stat(self, **options):
            looks.append(self)
            if len(looks) <= 3:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            return super().stat(**options)

    preemption = Preemption()
    (tmp_path / "cancelled.json").touch()
    with heeding(Away(tmp_path / "cancelled.json"), preemption, every_seconds=0.01):
        deadline = time.monotonic() + 10
        while not preemption.flag and time.monotonic() < deadline:
            os.sched_yield()
    assert preemption.flag is Verdict.SAVE and len(looks) == 4


def test_handlers_are_put_back_when_no_signal_came():
    before = signal.getsignal(signal.SIGUSR2)
    with watching() as preemption:
        assert preemption.previous_usr2 is before
        assert signal.getsignal(signal.SIGUSR2) is not before
    assert signal.getsignal(signal.SIGUSR2) is before


IN_C = """
import os, signal, sys, threading, time, torch
from runner.preemption import watching
torch.set_num_threads(1)
a = torch.randn(1500, 1500)
with watching() as preemption:
    print("ready", flush=True)
    ended = 0.0
    while not (ended and preemption.flag):
        torch.linalg.svd(a)  # seconds without a Python bytecode
        ended = time.time()
sent = float(sys.stdin.readline())
print(preemption.first_signal - sent, ended - sent)
"""


@pytest.mark.slow
def test_a_signal_is_noticed_while_the_main_thread_is_in_c():
    with subprocess.Popen(
        [sys.executable, "-c", IN_C], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin and process.stdout
        assert process.stdout.readline() == "ready\n"
        sent = time.time()
        process.send_signal(signal.SIGUSR2)
        process.stdin.write(f"{sent}\n")
        process.stdin.flush()
        noticed, ended = map(float, process.stdout.readline().split())
    assert noticed < ended, f"noticed after {noticed:.3f} s, the operation ended after {ended:.3f} s"


@pytest.mark.ddp
def test_a_signal_is_known_while_the_main_thread_is_in_a_collective():
    """Its handler runs once the collective has ended; `bench_signal` says how soon the flag is up."""
    delays = run_ranks(2, measure_delays, 10)[0]
    assert len(delays) == 10 and sorted(delays)[4] < 0.1, delays


BLOCKED = """
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])  # as the launcher does: before any other thread
os.kill(os.getpid(), signal.SIGUSR2)
from runner.preemption import watching
with watching() as preemption:
    while not preemption.flag:
        os.sched_yield()
    print(preemption.flag.name)
"""


def test_a_signal_blocked_since_the_launch_is_delivered_once_somebody_listens():
    done = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True, timeout=60)
    assert done.stdout == "REQUEUE\n", done.stderr


def test_children_started_under_signals_blocked_never_answer():
    with signals_blocked():
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    assert child.stdin is not None
    try:
        child.send_signal(signal.SIGTERM)
        child.send_signal(signal.SIGUSR2)
        status = Path(f"/proc/{child.pid}/status").read_text()
        mask = next(line for line in status.splitlines() if line.startswith("SigBlk"))
        assert int(mask.split()[1], 16) >> (signal.SIGTERM - 1) & 1
        assert child.poll() is None
    finally:
        child.stdin.close()
    assert child.wait(10) == 0


def test_one_rank_answers_at_once():
    preemption = Preemption()
    assert preemption.poll(Group(), 1) == Answer()
    assert preemption.poll(Group(), 2, save_due=True) == Answer(save=True)
    preemption.raise_flag(signal.SIGUSR2)
    assert preemption.poll(Group(), 3) == Answer(Verdict.REQUEUE)
    with pytest.raises(Interrupted):
        preemption.check(Group())


def leave_together(group: Group, schedules: list[dict[int, int]]) -> list[tuple[int, list[int]]]:
    """For each schedule (rank -> step of its signal) the step this rank left at, and where it saved."""
    left = []
    for schedule in schedules:
        preemption, saves, asked = Preemption(), [], False
        for step in range(1, 2000):
            if schedule.get(group.rank) == step:
                preemption.raise_flag(signal.SIGUSR2)
            asked = asked or (group.is_main and step == 3)
            answer = preemption.poll(group, step, save_due=asked)
            if answer.save:
                saves.append(step)
                asked = False
            if answer.verdict:
                left.append((step, saves))
                break
        preemption.settle()
    return left


@pytest.mark.ddp
def test_ranks_agree_on_one_step_for_random_signals():
    chance = random.Random(0)
    schedules = [
        {rank: chance.randrange(1, 60) for rank in chance.sample(range(3), chance.randrange(1, 4))} for _ in range(40)
    ]
    results = run_ranks(3, leave_together, schedules)
    for index, schedule in enumerate(schedules):
        steps = {rank_results[index][0] for rank_results in results}
        saves = {tuple(rank_results[index][1]) for rank_results in results}
        assert len(steps) == len(saves) == 1, f"{schedule}: {steps} {saves}"
        # Noticed at the second comparison after the first signal at the latest.
        assert min(schedule.values()) <= steps.pop() <= min(schedule.values()) + 2 * 100
        assert len(saves.pop()) <= 1, "one request, one save"


def leave_in_the_midst(group: Group, count: int, seed: int) -> list[tuple[int, Verdict]]:
    """Where this rank left, and why, when signals come by the clock, in the middle of whatever the ranks do."""
    ends = []
    for index in range(count):
        chance = random.Random(1000 * seed + index)
        # The same draws on every rank: when each is signalled, if at all, and how long its steps take.
        delays = [chance.choice([None, chance.random() * 0.03]) for _ in range(group.world)]
        names = [chance.choice([signal.SIGUSR2, signal.SIGTERM]) for _ in range(group.world)]
        step_seconds = [chance.random() * 0.002 for _ in range(group.world)]
        if not any(delays):
            delays[0] = 0.01
        preemption, delay = Preemption(), delays[group.rank]
        timer = threading.Timer(delay or 0.0, preemption.raise_flag, [names[group.rank]])
        if delay is not None:
            timer.start()
        for step in itertools.count(1):
            time.sleep(step_seconds[group.rank])
            group.all_reduce_sum(torch.ones(1))
            if verdict := preemption.poll(group, step).verdict:
                ends.append((step, verdict))
                break
        preemption.settle()
        timer.cancel()
    return ends


@pytest.mark.ddp
@pytest.mark.parametrize("count", [25, pytest.param(600, marks=pytest.mark.nightly)])
def test_ranks_leave_at_one_step_whenever_signals_come(count):
    results = run_ranks(3, leave_in_the_midst, count, 0)
    disagreements = sum(len(set(ends)) > 1 for ends in zip(*results, strict=True))
    print(f"\n{disagreements} disagreements in {count} random schedules of signals to 3 gloo ranks")
    assert disagreements == 0 and all(len(ends) == count for ends in results)


class Wire:
    """All-reduces of ranks that run in one process by turns: the n-th of each rank is the n-th of all."""

    def __init__(self, world: int) -> None:
        self.sent: list[list[torch.Tensor]] = [[] for _ in range(world)]

    def all_reduce(self, message: torch.Tensor, op: object, group: int, async_op: bool) -> "Work":
        self.sent[group].append(message.clone())
        return Work(self, len(self.sent[group]) - 1, message)


@dataclass
class Work:
    wire: Wire
    number: int
    message: torch.Tensor

    def wait(self) -> None:
        sent = [messages[self.number] for messages in self.wire.sent if len(messages) > self.number]
        assert len(sent) == len(self.wire.sent), "a rank would wait for one that is not coming"
        self.message.copy_(torch.stack(sent).amax(0))


def leave_on_paper(
    world: int, chance: random.Random, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[tuple[int, Verdict]], int]:
    """Ranks in one process by the real `poll`, the wire and the clock made of values.

    They take each step in any order, since it ends with an exchange of gradients, and are signalled between any two.
    Returns the step and verdict of each that left at the first step at which any did, and the step of the first signal.
    """
    wire, clock, turn = Wire(world), [0.0] * world, 0
    monkeypatch.setattr(preemption_module.dist, "all_reduce", wire.all_reduce)
    monkeypatch.setattr(preemption_module.time, "monotonic", lambda: clock[turn])
    ranks = [Preemption() for _ in range(world)]
    signalled = chance.sample(range(world), chance.randrange(1, world + 1))
    signals = {rank: (chance.randrange(1, 40), chance.choice([signal.SIGUSR2, signal.SIGTERM])) for rank in signalled}
    # From steps of which a hundred fit between two comparisons to some that last longer than these are apart.
    typical_seconds = 10 ** chance.uniform(-3, 1)
    for step in range(1, 400):
        left = []
        for turn in chance.sample(range(world), world):
            clock[turn] += typical_seconds * chance.choice([0.1, 1, 1, 3])
            for rank, (when, signum) in signals.items():
                # Before or after the ranks whose turn it was.
                if step > when or (step == when and chance.random() < 0.5):
                    ranks[rank].raise_flag(signum)
            answer = ranks[turn].poll(Group(turn, world, control=turn), step, save_due=chance.random() < 0.1)
            if answer.verdict:
                left.append((step, answer.verdict))
        if left:
            break
    return left, min(when for when, _ in signals.values())


def test_no_random_schedule_makes_ranks_disagree(monkeypatch):
    chance, schedules, disagreements, latest = random.Random(0), 2000, 0, 0
    for _ in range(schedules):
        with monkeypatch.context() as patch:
            world = chance.randrange(2, 6)
            left, first = leave_on_paper(world, chance, patch)
        disagreements += len(left) < world or len(set(left)) > 1
        latest = max(latest, left[0][0] - first)
    print(f"\n{disagreements} disagreements in {schedules} random schedules; at most {latest} steps after the signal")
    assert disagreements == 0
    assert latest <= 2 * MAX_STEPS_BETWEEN_POLLS


ORPHAN = """
import os, subprocess, sys, time
from runner.preemption import outlived_by, watching
supervisor = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
with watching() as preemption, outlived_by(supervisor.pid, preemption, float(sys.argv[1])):
    assert not preemption.flag
    supervisor.kill(), supervisor.wait()
    while not preemption.flag or sys.argv[1] == "0":
        time.sleep(0.01)
    print(preemption.flag.name, flush=True)
"""


@pytest.mark.parametrize(("patience_seconds", "said"), [(60, "SAVE\n"), (0, "")], ids=["leaves", "does not leave"])
def test_the_end_of_a_supervisor_is_a_term(patience_seconds, said):
    done = subprocess.run(
        [sys.executable, "-c", ORPHAN, str(patience_seconds)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (143, said), done.stderr
