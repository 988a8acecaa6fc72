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


def test_where_the_steps_are_cut_changes_no_bit():
    losses = torch.rand(300, generator=torch.Generator().manual_seed(0))

    def fill(cuts: list[int]) -> dict[str, float]:
        meters = Meters()
        for step, loss in enumerate(losses):
            if step in cuts:
                saved, meters = meters.state_dict(), Meters()
                meters.load_state_dict(saved, torch.device("cpu"))
            meters.add({"loss": loss})
        return meters.flush(Group())

    assert fill([]) == fill([1, 97, 98, 256])
    assert fill([])["loss"] == pytest.approx(losses.mean().item())


def test_a_measurement_is_averaged_over_the_steps_that_had_it():
    meters = Meters()
    meters.add({"loss": torch.tensor(1.0)})
    meters.add({"loss": torch.tensor(3.0), "intermediate": torch.tensor(5.0)})
    assert meters.flush(Group()) == {"loss": 2.0, "intermediate": 5.0}


def test_what_was_measured_is_the_value_of_that_step():
    parameter = torch.zeros(())
    meters = Meters()
    meters.add({"loss": parameter})
    parameter.fill_(7.0)
    assert meters.flush(Group()) == {"loss": 0.0}


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
