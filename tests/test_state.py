"""The training state: all of it is saved, comes back bit for bit, and every part of it counts in the fingerprint."""

import copy
import random
import time

import numpy as np
import pytest
import torch
from torch import nn

from runner.config import OptimizerConfig
from runner.errors import CheckpointError
from runner.group import Group
from runner.method import Method
from runner.optimizer import build_optimizer
from runner.precision import Precision
from runner.state import TrainState, rng_state, rng_untouched, seed_everything, set_rng_state
from tests.ranks import run_ranks

CPU = torch.device("cpu")


class Toy(Method):
    """Parameters, running statistics and a queue that is not saved with the weights."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width))
        self.head = nn.Linear(width, 2)
        self.register_buffer("queue", torch.zeros(5, width), persistent=False)

    def encode(self, images):
        return self.encoder(images)


def make_state(seed: int = 0, steps: int = 3, width: int = 4) -> TrainState:
    """A state after some steps in fp16, with every part in motion."""
    seed_everything(seed, rank=1)
    method = Toy(width)
    optimizer = build_optimizer(method, OptimizerConfig(name="adamw", lr=1e-3))
    state = TrainState(method, optimizer, Precision("fp16", CPU))
    for _ in range(steps):
        features = method.encode(torch.randn(8, 3))
        loss = method.head(features).square().mean()
        state.precision.backward(loss)
        state.precision.step(optimizer)
        optimizer.zero_grad()
        method.queue.copy_(features[:5].detach())
        state.meters.add({"loss": loss.detach(), "gamma": 0.5})
        state.meters.put("grad_norm", loss.detach() * 2)
        state.step += 1
    state.tracked_step, state.evaluated_step = 2, 1
    state.best = {"metric": "test/knn_top1", "value": 0.5, "step": 1}
    state.seconds = {"start": 1.0}
    # Both keep half of a pair of normal numbers, which is state as well.
    random.gauss(0, 1)
    np.random.randn()
    return state


def through_a_file(document, path):
    """What a save and a safe load make of it."""
    torch.save(document, path)
    return torch.load(path, weights_only=True)


def draws() -> list:
    return [
        random.random(),
        random.gauss(0, 1),
        np.random.rand(3).tolist(),
        np.random.randn(),
        torch.rand(3).tolist(),
        torch.randn(3).tolist(),
    ]


def test_generators_come_back_through_a_safe_load(tmp_path):
    make_state()
    saved = through_a_file(rng_state(), tmp_path / "rng.pt")
    expected = draws()
    assert draws() != expected
    set_rng_state(saved)
    assert draws() == expected


def test_a_state_comes_back_through_a_safe_load(tmp_path):
    state = make_state()
    expected = state.fingerprint(Group())
    shared = through_a_file(state.shared(), tmp_path / "shared.pt")
    own = through_a_file(state.own(), tmp_path / "own.pt")
    other = make_state(seed=1, steps=1)
    assert other.fingerprint(Group()) != expected
    other.restore(shared, own, CPU)
    assert other.fingerprint(Group()) == expected and other.seconds == {"start": 1.0}
    # It goes on alike, too: gradients scaled by the same number, the same running means.
    rows = [each.meters.flush(Group()) for each in (state, other)]
    assert rows[0] == rows[1] and rows[0]["gamma"] == 0.5


def test_restoring_leaves_the_generators_where_they_were_saved():
    state = make_state()
    shared, own = copy.deepcopy((state.shared(), state.own()))
    expected = draws()
    state.restore(shared, own, CPU)
    assert draws() == expected


def test_a_checkpoint_of_another_model_is_refused_by_name():
    with pytest.raises(CheckpointError, match=r"does not fit this model: .*encoder\.0\.weight"):
        make_state().restore(make_state(width=6).shared(), make_state(width=6).own(), CPU)


def first_moment(state: TrainState) -> torch.Tensor:
    return next(iter(state.optimizer.state.values()))["exp_avg"]


def nudge(tensor: torch.Tensor) -> None:
    """The smallest change there is, in one element."""
    with torch.no_grad():
        flat = tensor.view(-1)
        flat[-1] = torch.nextafter(flat[-1], torch.tensor(torch.inf))


def change_scale(state: TrainState) -> None:
    state.precision.load_state_dict(state.precision.state_dict() | {"_growth_tracker": 77})


CHANGES = {
    "parameter": lambda state: nudge(state.method.head.bias),
    "running statistic": lambda state: nudge(state.method.encoder[1].running_mean),
    "batches counted": lambda state: state.method.encoder[1].num_batches_tracked.add_(1),
    "buffer not in the weights": lambda state: nudge(state.method.queue),
    "optimizer moment": lambda state: nudge(first_moment(state)),
    "learning rate": lambda state: state.optimizer.param_groups[0].update(lr=2e-3),
    "loss scale": change_scale,
    "meter sums": lambda state: state.meters.add({"loss": torch.tensor(0.0), "gamma": 0.5}),
    "meter number": lambda state: state.meters._floats.update(gamma=0.25),
    "meter value": lambda state: state.meters.put("grad_norm", torch.tensor(0.0)),
    "python generator": lambda state: random.random(),
    "python gauss": lambda state: random.gauss(0, 1),
    "numpy generator": lambda state: np.random.rand(),
    "numpy gauss": lambda state: np.random.randn(),
    "torch generator": lambda state: torch.rand(1),
    "step": lambda state: setattr(state, "step", 4),
    "skipped": lambda state: setattr(state, "skipped", 1),
    "tracked step": lambda state: setattr(state, "tracked_step", 3),
    "evaluated step": lambda state: setattr(state, "evaluated_step", 2),
    "finished": lambda state: setattr(state, "finished", True),
    "best": lambda state: state.best.update(value=0.25),
}


@pytest.mark.parametrize("part", CHANGES)
def test_every_part_counts_in_the_fingerprint(part):
    state = make_state()
    before = state.fingerprint(Group())
    assert state.fingerprint(Group()) == before, "reading it changes nothing"
    CHANGES[part](state)
    assert state.fingerprint(Group()) != before


def test_every_field_is_counted_or_restored_by_name():
    fields = set(TrainState.__dataclass_fields__)
    assert fields == {*TrainState.COUNTERS, "method", "optimizer", "precision", "meters", "seconds"}


def test_times_and_the_order_of_keys_do_not_count():
    state = make_state()
    before = state.fingerprint(Group())
    state.seconds = {"start": time.time(), "save": 3.0}
    state.best = dict(reversed(state.best.items()))
    moments = state.optimizer.state
    for parameter in list(moments):
        moments[parameter] = dict(reversed(moments.pop(parameter).items()))
    assert state.fingerprint(Group()) == before


def test_type_and_shape_count_beside_the_bytes():
    state = make_state()
    found = set()
    for queue in (torch.zeros(4), torch.zeros(2, 2), torch.zeros(2, dtype=torch.float64), torch.zeros(0)):
        state.method.queue = queue
        found.add(state.fingerprint(Group()))
    assert len(found) == 4


def fingerprints_of_ranks(group: Group) -> list[str]:
    """Of a state, and of the same with another generator on rank 0, and on rank 1."""
    found = []
    for changed in (None, 0, 1):
        state = make_state()
        if group.rank == changed:
            torch.rand(1)
        found.append(state.fingerprint(group))
    return found


@pytest.mark.ddp
def test_ranks_share_one_fingerprint_that_counts_each_of_them():
    first, second = run_ranks(2, fingerprints_of_ranks)
    assert first == second and len(set(first)) == 3


def test_generators_are_put_back_whatever_happens():
    seed_everything(0, 0)
    expected = draws()
    seed_everything(0, 0)
    with pytest.raises(KeyError), rng_untouched():
        draws()
        raise KeyError
    assert draws() == expected


def test_seeds_and_ranks_have_streams_of_their_own():
    found = []
    for seed, rank in [(0, 0), (0, 1), (1, 0), (0, 0)]:
        seed_everything(seed, rank)
        found.append(draws())
    assert found[0] == found[3]
    firsts = [entry[0] for entry in found[:3]] + [entry[4][0] for entry in found[:3]]
    assert len(set(firsts)) == 6
