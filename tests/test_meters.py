"""Means over steps and ranks equal the plain ones, and survive a save in the middle."""

import pytest
import torch

from runner.group import Group
from runner.meters import Meters
from tests.ranks import run_ranks


def values(rank: int, step: int) -> dict[str, torch.Tensor]:
    return {"loss": torch.tensor(1.0 + rank + 10 * step), "kl": torch.tensor(float(step))}


def fill(group: Group) -> dict[str, float]:
    meters = Meters()
    for step in range(3):
        meters.add(values(group.rank, step) | {"gamma": step / 2})
    saved = Meters()
    saved.load_state_dict(meters.state_dict(), torch.device("cpu"))
    saved.add(values(group.rank, 3) | {"gamma": 9.0})
    saved.put("grad_norm", torch.tensor(4.0))
    return saved.flush(group)


@pytest.mark.ddp
def test_means_are_over_steps_and_ranks():
    for row in run_ranks(2, fill):
        assert row == {"loss": pytest.approx(16.5), "kl": pytest.approx(1.5), "grad_norm": 4.0, "gamma": 9.0}


def test_a_flush_starts_afresh():
    meters = Meters()
    meters.add({"loss": torch.tensor(2.0)})
    assert meters.flush(Group()) == {"loss": 2.0}
    assert meters.flush(Group()) == {}
    meters.add({"loss": torch.tensor(4.0)})
    assert meters.flush(Group()) == {"loss": 4.0}


def test_nan_is_noticed_though_later_losses_are_fine():
    meters = Meters()
    meters.add({"loss": torch.tensor(float("nan"))})
    meters.add({"loss": torch.tensor(1.0)})
    assert not meters.is_finite(Group())


def poison_rank_1(group: Group) -> bool:
    meters = Meters()
    meters.add({"loss": torch.tensor(float("inf") if group.rank == 1 else 1.0)})
    return meters.is_finite(group)


@pytest.mark.ddp
def test_inf_on_one_rank_is_noticed_on_all():
    assert run_ranks(2, poison_rank_1) == [False, False]
