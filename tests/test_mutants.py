"""The proof of exact resume can fail: it notices every part of the state that a resume leaves out, one by one."""

import copy
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from runner import loader
from runner.attempt import Attempt, claim
from runner.batch import Batch
from runner.ema import update_ema
from runner.experiment import load_trial
from runner.faults import Fault, Proof
from runner.group import Group
from runner.journal import Journal
from runner.method import Method, Task
from runner.methods import scl
from runner.preemption import Preemption
from runner.queue import Queue
from runner.rank import run_rank
from runner.rendezvous import Place
from runner.rundir import RunDir
from runner.state import TrainState
from runner.tracking import Tracker
from runner.trainer import launch
from runner.verify import find_difference
from tests.experiments import prepare_run
from tests.ranks import run_ranks

pytestmark = pytest.mark.slow

GROUPS: dict[str, Any] = {
    "train": {"steps": 16, "batch_size": 24, "accumulate": 2, "precision": "fp16"},
    "data": {"limit": 144},
    "evaluate": {"probes": ["knn"], "every_steps": 6},
    "tracking": {"every_steps": 5},
}
CUT_AT = 7
"""In the middle of an epoch of six steps, between two rows and two evaluations."""

State = dict[str, Any]
Omit = Callable[[State, State, State, State], None]
"""Takes what is restored, shared and own, and what a fresh start has."""


class Everything(Method):
    """A method with every kind of state: a teacher, a queue, running statistics, dropout, a learned temperature.

    It also draws from all global generators, as a user's code may.
    """

    def __init__(self, encoder: nn.Module, task: Task) -> None:
        super().__init__()
        width = int(encoder.width)  # type: ignore[call-overload]
        self.group = task.group
        self.encoder = encoder
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(width, 8))
        self.teacher = copy.deepcopy(nn.Sequential(self.encoder, self.head)).requires_grad_(False)
        self.log_scale = nn.Parameter(torch.tensor(1.0))
        self.queue = Queue(64, 8)

    def compute_loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        first, second = batch.global_views
        noise = random.gauss(0, 0.1) + np.random.default_rng(np.random.randint(2**31)).normal(0, 0.1)
        z_BD = F.normalize(self.head(self.encoder(first + noise)).float(), dim=1)
        with torch.no_grad():
            self.keys_BD = F.normalize(self.teacher(second).float(), dim=1)
        logits = torch.cat([z_BD @ self.keys_BD.T, z_BD @ self.queue.rows.T], 1) * self.log_scale.exp()
        return {
            "contrast": F.cross_entropy(logits, torch.arange(len(z_BD))),
            "pull": (z_BD - self.keys_BD).square().mean(),
        }

    def encode(self, images_BCHW: Tensor) -> Tensor:
        features: Tensor = self.encoder(images_BCHW)
        return features

    def after_fit_step(self, step: int) -> None:
        update_ema(self.teacher[0], self.encoder, 0.9)
        update_ema(self.teacher[1], self.head, 0.9)
        self.queue.enqueue(self.keys_BD, self.group)


@pytest.fixture(autouse=True)
def everything(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(scl, "build", lambda config, encoder, task: Everything(encoder, task))
    threads = torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scl, "build", lambda config, encoder, task: Everything(encoder, task))
        run = prepare_run(tmp_path_factory.mktemp("straight"), **GROUPS)
        outcome, _ = run_rank(run, Place(), redirect=False, proof=Proof(journal=run.path / "journal"))
    assert not outcome.verdict
    return run


def cut(folder: Path, before_second: Callable[[], None] = lambda: None) -> RunDir:
    """The same trial in two attempts."""
    run = prepare_run(folder, **GROUPS)
    proof = Proof((Fault("step.end", "USR2", nth=CUT_AT),), run.path / "journal", prompt=True)
    outcome, _ = run_rank(run, Place(), redirect=False, proof=proof)
    assert outcome.verdict and CUT_AT <= outcome.step <= CUT_AT + 1
    before_second()
    outcome, _ = run_rank(run, Place(), redirect=False, proof=Proof(journal=run.path / "journal"))
    assert not outcome.verdict
    return run


def omit_tensors(*words: str) -> Omit:
    def omit(shared: State, own: State, fresh: State, fresh_own: State) -> None:
        names = [name for name in shared["method"] if any(word in name for word in words)]
        assert names, words
        for name in names:
            shared["method"][name] = fresh["method"][name]
            if name in own["buffers"]:
                own["buffers"][name] = fresh_own["buffers"][name]

    return omit


def omit_shared(name: str) -> Omit:
    return lambda shared, own, fresh, fresh_own: shared.update({name: fresh[name]})


def omit_own(name: str) -> Omit:
    return lambda shared, own, fresh, fresh_own: own.update({name: fresh_own[name]})


def omit_generator(name: str) -> Omit:
    return lambda shared, own, fresh, fresh_own: own["rng"].update({name: fresh_own["rng"][name]})


OMISSIONS = {
    "model": omit_tensors("encoder.", "head."),
    "running statistics": omit_tensors("running_mean", "running_var"),
    "batches counted": omit_tensors("num_batches_tracked"),
    "teacher": omit_tensors("teacher."),
    "queue": omit_tensors("queue.rows"),
    "place in the queue": omit_tensors("queue.next"),
    "loss parameters": omit_tensors("log_scale"),
    "optimizer": omit_shared("optimizer"),
    "gradient scaler": omit_shared("scaler"),
    "best metric": omit_shared("best"),
    "step": omit_shared("step"),
    "steps skipped": lambda shared, own, fresh, fresh_own: shared.update(skipped=1),
    "last row written, W&B's step": omit_shared("tracked_step"),
    "last evaluation": omit_shared("evaluated_step"),
    "Python's generator": omit_generator("python"),
    "NumPy's generator": omit_generator("numpy"),
    "torch's generator": omit_generator("torch"),
    "metric accumulators": omit_own("meters"),
}


def restoring_without(omit: Omit) -> Callable[..., None]:
    real = TrainState.restore

    def restore(self: TrainState, shared: State, own: State, device: torch.device) -> None:
        fresh, fresh_own = copy.deepcopy((self.shared(), self.own()))
        shared, own = copy.deepcopy((shared, own))
        omit(shared, own, fresh, fresh_own)
        real(self, shared, own, device)

    return restore


def test_nothing_left_out_is_equal(tmp_path, straight):
    assert find_difference(straight, cut(tmp_path), world=1) is None


@pytest.mark.parametrize("part", OMISSIONS)
def test_a_part_of_the_state_left_out_is_noticed(tmp_path, straight, monkeypatch, part):
    def leave_out() -> None:
        monkeypatch.setattr(TrainState, "restore", restoring_without(OMISSIONS[part]))

    assert find_difference(straight, cut(tmp_path, leave_out), world=1) is not None


def shifted_schedule(patch: pytest.MonkeyPatch) -> None:
    """The learning rate begins anew."""
    from runner.schedules import cosine

    real = cosine.build
    patch.setattr(cosine, "build", lambda config, steps: lambda step: real(config, steps)(max(step - CUT_AT, 0)))


def begun_epoch(patch: pytest.MonkeyPatch) -> None:
    """The order of the samples begins anew."""
    real = loader.iterate
    patch.setattr(
        loader, "iterate", lambda data, plan, group, start, stop, workers=0: real(data, plan, group, 0, stop, workers)
    )


def lost_micro_batch(patch: pytest.MonkeyPatch) -> None:
    """The first step after the resume begins with its second micro-batch."""
    real = loader.iterate

    def iterate(*args: Any) -> Iterator[Any]:
        windows = real(*args)
        yield next(windows)[1:]
        yield from windows

    patch.setattr(loader, "iterate", iterate)


def kept_gradients(patch: pytest.MonkeyPatch) -> None:
    """The first step after the resume adds to gradients of before."""
    real = TrainState.restore

    def restore(self: TrainState, *args: Any) -> None:
        real(self, *args)
        for parameter in self.method.parameters():
            parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None

    patch.setattr(TrainState, "restore", restore)


def rows_kept(patch: pytest.MonkeyPatch) -> None:
    """The rows of before are lost."""
    real = Tracker.begin
    patch.setattr(Tracker, "begin", lambda self, step: real(self, -1))


@pytest.mark.parametrize("mutate", [shifted_schedule, begun_epoch, lost_micro_batch, kept_gradients, rows_kept])
def test_a_position_that_is_lost_is_noticed(tmp_path, straight, monkeypatch, mutate):
    assert find_difference(straight, cut(tmp_path, lambda: mutate(monkeypatch)), world=1) is not None


def train_rank(group: Group, folder: str, cut_at: int | None, launch_name: str, rank_0s_rng: bool) -> str:
    """One attempt of one rank of two."""
    scl.build = lambda config, encoder, task: Everything(encoder, task)
    run = RunDir(Path(folder))
    attempt = claim(run) if group.is_main else None
    number = group.broadcast_json(attempt.number if attempt else 0)
    preemption = Preemption(latency_seconds=0)
    if rank_0s_rng:
        real = TrainState.restore

        def restore(self: TrainState, shared: State, own: State, device: torch.device) -> None:
            main = torch.load(next(run.checkpoints.glob("step_*")) / "rank_00000.pt", weights_only=True)
            real(self, shared, {**own, "rng": main["own"]["rng"]}, device)

        TrainState.restore = restore  # type: ignore[method-assign]
    real_poll = preemption.poll

    def poll(group: Group, step: int, *wishes: Any) -> Any:
        if step == cut_at and group.rank == 1:
            preemption.raise_flag(signal.SIGUSR2)
        return real_poll(group, step, *wishes)

    preemption.poll = poll  # type: ignore[method-assign]
    outcome = launch(
        load_trial(run.config),
        Attempt(run, number, group.rank),
        group,
        preemption,
        place=Place(group.rank, group.world, group.rank, launch=launch_name),
        journal=Journal(run.path / "journal", group.rank),
    )
    return outcome.verdict.name


@pytest.mark.ddp
def test_generators_of_another_rank_are_noticed(tmp_path):
    groups = {**GROUPS, "evaluate": {"probes": []}, "resources": {"ranks": 2}}
    runs = [prepare_run(tmp_path / name, **groups) for name in ("straight", "cut", "mutant")]
    straight, cut, mutant = runs
    assert run_ranks(2, train_rank, str(straight.path), None, "1", False) == ["GO_ON"] * 2
    for run in (cut, mutant):
        assert "GO_ON" not in run_ranks(2, train_rank, str(run.path), CUT_AT, "1", False)
        assert run_ranks(2, train_rank, str(run.path), None, "2", run is mutant) == ["GO_ON"] * 2
    assert find_difference(straight, cut, world=2) is None
    found = find_difference(straight, mutant, world=2)
    assert found is not None and "rank 1" in found
