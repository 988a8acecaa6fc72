"""Schedules against torch's own, and at their corners."""

import math
import warnings

import pytest
import torch
from torch.optim import lr_scheduler

from runner.errors import ConfigError
from runner.schedules import constant, cosine, linear
from tests.golden import load_golden

STEPS, WARMUP = 50, 8


def torch_factors(after_warmup, warmup=WARMUP):
    """The multipliers of torch's LinearLR warm-up followed by `after_warmup(optimizer)`, to the end."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    rise = lr_scheduler.LinearLR(optimizer, start_factor=1 / (warmup + 1), total_iters=warmup)
    schedule = lr_scheduler.SequentialLR(optimizer, [rise, after_warmup(optimizer)], milestones=[warmup])
    factors = []
    for _ in range(STEPS + 1):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        with warnings.catch_warnings():
            # SequentialLR itself still calls its parts with the argument that torch deprecates.
            warnings.simplefilter("ignore")
            schedule.step()
    return factors


@pytest.mark.parametrize("end_factor", [0.0, 0.1])
def test_cosine_equals_torch(end_factor):
    factor = cosine.build(cosine.Config(warmup_steps=WARMUP, end_factor=end_factor), STEPS)
    expected = torch_factors(
        lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, STEPS - WARMUP, eta_min=end_factor)
    )
    assert [factor(step) for step in range(STEPS + 1)] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("end_factor", [0.0, 0.25])
def test_linear_equals_torch(end_factor):
    factor = linear.build(linear.Config(warmup_steps=WARMUP, end_factor=end_factor), STEPS)
    expected = torch_factors(
        lambda optimizer: lr_scheduler.LinearLR(
            optimizer, start_factor=1.0, end_factor=end_factor, total_iters=STEPS - WARMUP
        )
    )
    assert [factor(step) for step in range(STEPS + 1)] == pytest.approx(expected, abs=1e-9)


def test_constant_equals_torch():
    factor = constant.build(constant.Config(warmup_steps=WARMUP), STEPS)
    expected = torch_factors(lambda optimizer: lr_scheduler.ConstantLR(optimizer, factor=1.0))
    assert [factor(step) for step in range(STEPS + 1)] == pytest.approx(expected)


@pytest.mark.parametrize("schedule", [constant, cosine, linear])
def test_the_first_step_learns_and_the_full_rate_comes_once(schedule):
    factor = schedule.build(schedule.Config(warmup_steps=4), 20)
    assert [factor(step) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    if schedule is not constant:
        assert max(factor(step) for step in range(20) if step != 4) < 1


@pytest.mark.parametrize("schedule", [cosine, linear])
def test_halfway_end_and_beyond(schedule):
    factor = schedule.build(schedule.Config(end_factor=0.2), 10)
    assert factor(0) == 1.0
    assert factor(5) == pytest.approx(0.6)
    assert factor(9) > 0.2
    # Some reference schedulers rise again past their last step.
    assert [factor(step) for step in (10, 11, 15, 1000)] == pytest.approx([0.2] * 4)


def test_cosine_formula_at_an_odd_place():
    factor = cosine.build(cosine.Config(warmup_steps=3), 13)
    assert factor(5) == pytest.approx((1 + math.cos(math.pi * 0.2)) / 2)


@pytest.mark.parametrize("schedule", [constant, cosine, linear])
def test_warmup_longer_than_the_training_is_refused(schedule):
    assert schedule.build(schedule.Config(warmup_steps=10), 10)(9) == pytest.approx(10 / 11)
    with pytest.raises(ConfigError, match=r"schedule\.warmup_steps: 11 .* 10, the steps"):
        schedule.build(schedule.Config(warmup_steps=11), 10)


@pytest.mark.parametrize("schedule", [constant, cosine, linear])
def test_warmup_from_zero_equals_the_golden_values(schedule):
    """Beyond the training the golden cosine rises again; ours stays where it is."""
    golden, name = load_golden("contrabin_schedules"), schedule.__name__.rpartition(".")[2]
    warmup, steps = golden[f"{name}_cfg"].tolist()
    factor = schedule.build(schedule.Config(warmup_steps=warmup, warmup_from_zero=True), steps)
    for column, base in enumerate((1e-5, 1e-3)):
        expected = golden[f"{name}_lr"][:steps, column].tolist()
        assert [base * factor(step) for step in range(steps)] == pytest.approx(expected, rel=1e-6, abs=1e-12)
    assert factor(0) == 0.0
    assert factor(steps + 2) == pytest.approx(factor(steps))


@pytest.mark.parametrize("schedule", [constant, cosine, linear])
def test_no_warmup_from_zero_is_no_warmup(schedule):
    assert schedule.build(schedule.Config(warmup_from_zero=True), 10)(0) == 1.0
