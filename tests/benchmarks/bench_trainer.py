"""What the trainer adds to a step: `python -m tests.benchmarks.bench_trainer [--ranks N]`.

The same work twice in one process: SCL with a tiny network, views, EMA and fused AdamW, once by a loop written by
hand (one rank: plain module; several: DDP), once by runner.trainer with metrics written every 50 steps, preemption
polled and the clock of the checkpoints read. Blocks of steps take turns; the figure is the median over turns of the
difference in CPU time (one rank) or wall time (several ranks, which wait for each other) a step.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel

from runner import named, trainer
from runner.attempt import Attempt, claim
from runner.batch import Batch
from runner.experiment import load_trial
from runner.group import Group
from runner.loader import permutation
from runner.method import Task
from runner.preemption import Preemption
from runner.run import build
from runner.rundir import RunDir
from runner.saving import plan_save
from runner.views import make_views
from tests.experiments import prepare_run
from tests.ranks import run_ranks

BLOCK_STEPS, TURNS = 150, 25
SETTINGS = {
    "encoder": {"name": "small_convnet", "widths": [4]},
    "method": {"projector_hidden": 8, "projector_width": 8},
    "views": {"jitter": {"probability": 0.0}, "blur": {"probability": 0.0}, "solarize": {"probability": 0.0}},
    "train": {"steps": 1_000_000, "batch_size": 16, "max_grad_norm": None},
    "tracking": {"every_steps": 50},
}


def make_ours(group: Group, folder: str) -> Callable[[int], None]:
    """A block of steps by the trainer."""
    attempt = claim(RunDir(Path(folder))) if group.is_main else None
    number = group.broadcast_json(attempt.number if attempt else 0)
    rundir = RunDir(Path(folder))
    run = build(load_trial(rundir.config), Attempt(rundir, number, group.rank), group, Preemption(), None)
    run.progress.shown = False
    plan_save(run, save_seconds=0.0)

    def block(steps: int) -> None:
        run.stop = run.state.step + steps
        trainer.train(run)

    return block


def make_bare(group: Group, folder: str) -> Callable[[int], None]:
    """A block of the same steps, as one would write them for one experiment."""
    trial = load_trial(RunDir(Path(folder)).config)
    options = named.resolve_trial(trial)
    data = named.load("data", trial.data.name).build(options.data, "train")
    encoder = named.load("encoders", trial.encoder.name).build(options.encoder, data.inputs)
    steps_total = trial.train.steps
    method = named.load("methods", trial.method.name).build(options.method, encoder, Task(steps_total, group))
    schedule = named.load("schedules", trial.schedule.name).build(options.schedule, steps_total)
    loose = [method.log_scale, method.bias]
    rest = [p for name, p in method.named_parameters() if p.requires_grad and name not in ("log_scale", "bias")]
    groups = [{"params": rest, "weight_decay": 1e-4}, {"params": loose, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=trial.optimizer.lr, fused=True)
    model = method if group.world == 1 else DistributedDataParallel(method, gradient_as_bucket_view=True)
    batch, done = trial.train.batch_size, 0
    own = slice(group.rank * batch // group.world, (group.rank + 1) * batch // group.world)
    epoch_steps = len(data) // batch

    def block(steps: int) -> None:
        nonlocal done
        for _ in range(steps):
            done += 1
            epoch, index = divmod(done - 1, epoch_steps)
            ids = torch.from_numpy(permutation(0, epoch, len(data))[index * batch : (index + 1) * batch][own])
            views, _ = make_views(data.images[ids], ids, trial.views, seed=0, epoch=epoch, mean=data.mean, std=data.std)
            for group_options in optimizer.param_groups:
                group_options["lr"] = trial.optimizer.lr * schedule(done - 1)
            loss = model(Batch(views, [], data.labels[ids], ids), done - 1).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            method.after_fit_step(done)

    return block


def compare(group: Group, folder: str) -> tuple[float, float, float]:
    """Microseconds a step: bare, ours, and the median of their paired differences."""
    torch.set_num_threads(1)
    clock = time.process_time if group.world == 1 else time.perf_counter
    bare, ours = make_bare(group, folder), make_ours(group, folder)
    bare(BLOCK_STEPS), ours(BLOCK_STEPS)
    bares, differences = [], []
    for turn in range(TURNS):
        first, second = (bare, ours) if turn % 2 else (ours, bare)
        taken = {}
        for block in (first, second):
            group.barrier()
            began = clock()
            block(BLOCK_STEPS)
            taken[block] = (clock() - began) / BLOCK_STEPS * 1e6
        bares.append(taken[bare])
        differences.append(taken[ours] - taken[bare])
    bare_us, added_us = statistics.median(bares), statistics.median(differences)
    return bare_us, bare_us + added_us, added_us


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=1)
    ranks = parser.parse_args().ranks
    with tempfile.TemporaryDirectory() as folder:
        run = prepare_run(Path(folder), **SETTINGS)
        if ranks == 1:
            bare, ours, added = compare(Group(), str(run.path))
        else:
            bare, ours, added = run_ranks(ranks, compare, str(run.path), timeout_seconds=600)[0]
    print(f"ranks {ranks}: bare {bare:.0f} us/step, runner {ours:.0f} us/step, added {added:+.0f} us/step")


if __name__ == "__main__":
    main()
