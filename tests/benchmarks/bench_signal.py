"""How soon a signal is known, and what knowing it together costs: `python -m tests.benchmarks.bench_signal`.

The first figure is the time from kill() to the flag of a rank whose main thread waits inside a collective for the
other rank, the 99th percentile and the largest of 50. The second compares blocks of steps of two ranks (50 ms of
sleep, then an all-reduce, as the exchange of gradients is one) that take turns with and without the comparison of
flags: the median over turns of the difference, and its share of a step. The last is the time spent inside `poll`.
"""

import os
import signal
import statistics
import time

import torch
import torch.distributed as dist

from runner.group import Group
from runner.preemption import Preemption, Verdict, watching
from tests.ranks import run_ranks

SIGNALS = 50
STEP_SECONDS, BLOCK_STEPS, TURNS = 0.05, 20, 12


def measure_delays(group: Group, signals: int) -> list[float]:
    """On rank 0 the seconds from each signal to the flag, its main thread being in an all-reduce all the while."""
    pids = torch.zeros(group.world, dtype=torch.int64)
    pids[group.rank] = os.getpid()
    dist.all_reduce(pids)
    delays = []
    with watching() as preemption:
        for _ in range(signals):
            sent = torch.zeros(1, dtype=torch.float64)
            if group.rank == 1:
                time.sleep(0.02)
                sent[0] = time.time()
                os.kill(int(pids[0]), signal.SIGUSR2)
                time.sleep(0.1)
            dist.all_reduce(sent)
            if group.rank == 0:
                while preemption.first_signal is None:
                    time.sleep(0.001)
                delays.append(preemption.first_signal - sent.item())
                preemption.first_signal, preemption.flag = None, Verdict.GO_ON
    return delays


def measure_agreement(group: Group) -> tuple[float, float]:
    """Seconds a step that comparing flags adds, and those spent inside `poll`."""
    preemption, polling, gradients = Preemption(), 0.0, torch.zeros(1000)
    step, differences = 0, []

    def block(polls: bool) -> float:
        nonlocal step, polling
        group.barrier()
        began = time.perf_counter()
        for _ in range(BLOCK_STEPS):
            time.sleep(STEP_SECONDS)
            dist.all_reduce(gradients)
            if polls:
                step += 1
                entered = time.perf_counter()
                preemption.poll(group, step)
                polling += time.perf_counter() - entered
        return (time.perf_counter() - began) / BLOCK_STEPS

    for turn in range(TURNS):
        taken = {polls: block(polls) for polls in (bool(turn % 2), not turn % 2)}
        differences.append(taken[True] - taken[False])
    preemption.settle()
    return statistics.median(differences), polling / step


def main() -> None:
    delays = sorted(run_ranks(2, measure_delays, SIGNALS)[0])
    p99 = delays[-(-99 * len(delays) // 100) - 1]
    print(
        f"signal to flag inside a collective: median {1e3 * statistics.median(delays):.1f} ms, p99 {1e3 * p99:.1f} ms"
    )
    added, polling = run_ranks(2, measure_agreement)[0]
    share = 100 * added / STEP_SECONDS
    print(f"comparing flags: {1e6 * added:+.0f} us a step of {1e3 * STEP_SECONDS:.0f} ms on 2 ranks, {share:+.2f} %")
    print(f"inside poll: {1e6 * polling:.0f} us a step, {100 * polling / STEP_SECONDS:.2f} %")


if __name__ == "__main__":
    main()
