"""What a checkpoint costs a training of one thread: `python -m tests.benchmarks.bench_checkpoint [--megabytes N]`.

How long training stands still for a state of 400 MB in 64 tensors, three ways: the snapshot of runner.saving, after
which a thread writes; torch.save with an fsync; torch.distributed.checkpoint.async_save, until it returns. They take
turns in one process, each until its checkpoint is on disk, so that what one leaves the machine with counts for all.
Beside them: one copy of so many bytes (memcpy), and steps of a training loop while nothing is written and while a
snapshot is.
"""

import argparse
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp

from runner import background
from runner.attempt import claim
from runner.background import Background
from runner.group import Group
from runner.rundir import RunDir
from runner.snapshot import Snapshot

TURNS, TENSORS = 7, 64


class Ours:
    """Checkpoints as the trainer writes them."""

    def __init__(self, folder: Path, state: dict) -> None:
        folder.mkdir()
        self.run, self.state, self.step = RunDir(folder), state, 0
        self.attempt = claim(self.run)
        self.snapshot, self.background = Snapshot(torch.device("cpu")), Background()
        self.snapshot.reserve({"shared": state, "own": {}})

    def begin(self) -> None:
        self.step += 1
        copied = self.snapshot.take({"shared": self.state, "own": {}})
        shared, own = copied["shared"], copied["own"]
        step = self.step
        self.background.start(
            lambda check: background.write(self.run, Group(), self.attempt, step, shared, own, {}, check)
        )

    def end(self) -> float:
        return self.background.collect()


@dataclass(frozen=True)
class Cost:
    """Of one checkpoint, in milliseconds."""

    blocked: float
    """How long training stood still."""

    busy: float
    """Of that, time on the CPU: what is left of `blocked` when others do not use the machine too."""

    durable: float
    """Until the checkpoint was on disk."""


def measure(begin: Callable[[], object], end: Callable[[], object]) -> Cost:
    began, began_busy = time.perf_counter(), time.thread_time()
    begin()
    blocked, busy = time.perf_counter() - began, time.thread_time() - began_busy
    end()
    return Cost(blocked * 1000, busy * 1000, (time.perf_counter() - began) * 1000)


def torch_save(path: Path, state: dict) -> None:
    with path.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())


def work_times(steps: int, until: Callable[[], bool]) -> list[float]:
    """Milliseconds of steps that are a fixed amount of work, at least so many, until something is over."""
    a = torch.randn(256, 256)
    times: list[float] = []
    while len(times) < steps or not until():
        began = time.perf_counter()
        for _ in range(20):
            a @ a
        times.append((time.perf_counter() - began) * 1000)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=400)
    parser.add_argument("--folder", type=Path, help="on the file system to be measured; default: a temporary one")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="torch.distributed.checkpoint")
    state = {str(i): torch.randn(options.megabytes * 250_000 // TENSORS) for i in range(TENSORS)}
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        compare(Path(name), state, options.megabytes)


def compare(folder: Path, state: dict[str, torch.Tensor], megabytes: int) -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    ours = Ours(folder / "ours", state)
    source = torch.cat(list(state.values()))
    target = source.clone()
    pending = []
    ways = {
        "one memcpy": (lambda: target.copy_(source), lambda: None),
        "runner": (ours.begin, ours.end),
        "torch.save": (lambda: torch_save(folder / "torch.pt", state), lambda: None),
        "DCP async_save": (
            lambda: pending.append(dcp.async_save(state, checkpoint_id=folder / "dcp")),
            lambda: pending.pop().result(),
        ),
    }
    measured: dict[str, list[Cost]] = {way: [] for way in ways}
    for turn in range(TURNS + 1):
        for way in list(ways)[turn % 4 :] + list(ways)[: turn % 4]:
            measured[way].append(measure(*ways[way]))
    dist.destroy_process_group()
    print(f"{megabytes} MB in {TENSORS} tensors, 1 thread, {TURNS} turns after a first one; milliseconds")
    print(f"{'':16s}{'stands still: median':>22s}{'least':>8s}{'on CPU':>8s}{'x runner':>10s}{'on disk after':>15s}")
    blocked = {way: [cost.blocked for cost in costs[1:]] for way, costs in measured.items()}
    for way, costs in measured.items():
        ratio = statistics.median(b / a for a, b in zip(blocked["runner"], blocked[way], strict=True))
        busy, durable = (statistics.median(x) for x in zip(*((c.busy, c.durable) for c in costs[1:]), strict=True))
        print(
            f"{way:16s}{statistics.median(blocked[way]):22.1f}{min(blocked[way]):8.1f}{busy:8.1f}{ratio:10.1f}{durable:15.0f}"
        )
    print(f"first snapshot of all, buffers reserved: {measured['runner'][0].blocked:.1f} ms")
    alone = work_times(200, lambda: True)
    ours.begin()
    beside = work_times(1, lambda: ours.background.is_over)
    cpu_seconds = ours.end()
    for name, times in (("alone", alone), ("while it is written", beside)):
        times.sort()
        print(
            f"steps {name}: median {statistics.median(times):.1f} ms, p99 {times[int(len(times) * 0.99)]:.1f} ms, "
            f"longest {times[-1]:.1f} ms ({len(times)} steps)"
        )
    print(f"the thread took {cpu_seconds:.2f} s of CPU time")


if __name__ == "__main__":
    main()
