"""A signal is noticed at once, whatever the main thread does, and all ranks leave at the same step."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runner.group import Group
from runner.preemption import Answer, Interrupted, Preemption, Verdict, heeding, signals_blocked, watching
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
    assert preemption.poll(Group(), 3, request=1) == Answer(Verdict.REQUEUE, request=1)
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
