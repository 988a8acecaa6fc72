"""The first steps of a trial, measured in this process or on several ranks, so that both can be compared."""

import json
import multiprocessing
import os
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch._C._distributed_c10d import FileStore
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from runner import loader, named
from runner.config import Trial
from runner.contract.surroundings import no_global_draws
from runner.dataset import Split
from runner.experiment import validate
from runner.group import Group, joined
from runner.local_ranks import PRELOAD
from runner.method import Method
from runner.optimizer import build_optimizer
from runner.processes import die_with_starter
from runner.run import build_method, make_plan
from runner.state import seed_everything
from runner.trial_data import build_data

STEPS = 2
PATIENCE_SECONDS = 120


@dataclass(frozen=True)
class Measured:
    """What the first steps of a trial gave, over all ranks."""

    losses: list[float]
    gradients: dict[str, Tensor]
    """Of the first step, by the parameter's name; those that got none are left out."""

    moved: set[str]
    """Parameters with a gradient other than 0 in some step."""

    trained: list[str]
    """The parameters that every step is to train."""


def measure(trial: Trial, group: Group) -> Measured:
    """The first steps of a trial, a collective call; what depends on a rank's share of the rows by nature is off."""
    options = named.resolve_trial(trial)
    seed_everything(trial.train.seed, rank=0)
    data = build_data(trial, options, group.device).train
    assert data is not None, "the trial has train.steps: 0"
    with no_global_draws(trial.method.name):
        method = build_method(trial, options, data, data, group, trial.train.steps or STEPS)
    optimizer = build_optimizer(method, trial.optimizer)
    _settle(method.train())
    with no_global_draws(trial.method.name):
        return _step(trial, group, data, method, optimizer)


def _step(trial: Trial, group: Group, data: Split, method: Method, optimizer: torch.optim.Optimizer) -> Measured:
    """The steps of `measure`, as the trainer does them."""
    plan, losses, gradients, moved = make_plan(trial, data), [], {}, set()
    trained = {name: parameter for name, parameter in method.named_parameters() if parameter.requires_grad}
    method.before_fit()
    method.before_fit_epoch(0)
    for step, window in enumerate(loader.iterate(data, plan, group, 0, STEPS)):
        method.before_fit_step(step)
        loss = torch.zeros(())
        for part in window:
            own = method(loader.train_batch(data, part, trial.views, trial.train.seed, 0), step).loss / len(window)
            own.backward()
            loss += group.all_reduce_sum(own) / group.world
        losses.append(float(loss))
        for name, parameter in trained.items():
            if parameter.grad is not None:
                parameter.grad = group.all_reduce_sum(parameter.grad) / group.world
                moved |= {name} if parameter.grad.any() else set()
                if step == 0:
                    gradients[name] = parameter.grad.clone()
        optimizer.step()
        optimizer.zero_grad()
        method.after_fit_step(step + 1)
    return Measured(losses, gradients, moved, list(trained) if method.uses_all_parameters else sorted(moved))


def measure_on(trial: Trial, world: int) -> Measured:
    """The same on several ranks, each a process of this machine; an error of a rank is an AssertionError with it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    text = json.dumps({**trial.model_dump(mode="json"), "resources": {"ranks": world}})
    with tempfile.TemporaryDirectory() as folder:
        ranks = [context.Process(target=_rank, args=(folder, rank, world, text)) for rank in range(world)]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join(PATIENCE_SECONDS)
            process.kill()
            process.join()
        errors = sorted(Path(folder).glob("*.error"), key=lambda path: path.stat().st_mtime_ns)
        assert not errors, f"{trial.method.name}: fails on {world} ranks:\n{errors[0].read_text()}"
        result = Path(folder) / "result"
        codes = [process.exitcode for process in ranks]
        assert result.exists(), f"{trial.method.name}: on {world} ranks nothing came back; exit codes {codes}"
        return Measured(**torch.load(result, weights_only=True))


def _rank(folder: str, rank: int, world: int, text: str) -> None:
    die_with_starter()
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    try:
        store = FileStore(f"{folder}/store", world)
        with joined(rank, world, rank, store, "gloo") as group:
            found = measure(validate(json.loads(text)), group)
        if group.is_main:
            torch.save(vars(found), f"{folder}/result")
    except BaseException:
        Path(folder, f"{rank}.error").write_text(traceback.format_exc())
        raise


def _settle(method: nn.Module) -> None:
    """Batch norm uses its running statistics, and dropout drops nothing."""
    for part in method.modules():
        if isinstance(part, _BatchNorm | _DropoutNd):
            part.eval()
