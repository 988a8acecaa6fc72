"""Schedules whose warm-up is a share of the training, against golden values and at their corners."""

import pytest

from runner.errors import ConfigError
from runner.schedules import cosine_cycles, linear_warmup, warmup_cosine, warmup_cyclic, warmup_three_steps
from tests.golden import load_golden

PEAKED = [linear_warmup, warmup_cosine, warmup_cyclic, warmup_three_steps]
BASE = 0.4
GOLDEN = [
    ("warmup0", linear_warmup, {}),
    ("warmup1", linear_warmup, {"start_factor": 0.05, "peak_step": 7}),
    ("warmup_cosine0", warmup_cosine, {"peak_fraction": 0.1}),
    ("warmup_cosine1", warmup_cosine, {"end_factor": 0.01 / BASE, "peak_step": 6}),
    ("warmup_cyclic0", warmup_cyclic, {}),
    ("warmup_3steps1", warmup_three_steps, {"gamma": 0.5, "peak_step": 10}),
]


@pytest.mark.parametrize(("name", "schedule", "options"), GOLDEN, ids=[name for name, *_ in GOLDEN])
def test_equals_the_golden_values(name, schedule, options):
    golden = load_golden("ssl_schedulers")
    steps = int(golden[f"{name}_total"])
    factor = schedule.build(schedule.Config(**options), steps)
    expected = golden[f"{name}_lr"].tolist()
    assert [BASE * factor(step) for step in range(steps)] == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_cosine_cycles_equal_the_golden_values():
    factor = cosine_cycles.build(cosine_cycles.Config(), 50)
    expected = load_golden("ssl_schedulers")["cosine_decayer"].tolist()
    assert [factor(step) for step in range(51)] == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_three_steps_decays_at_non_integer_milestones():
    """One reference system compares steps with fractions of the rest for equality, and with 60 steps never drops."""
    golden = load_golden("ssl_schedulers")
    stuck = golden["warmup_3steps0_lr"].tolist()
    assert stuck[-1] == BASE, "the golden file shows the defect"
    factor = warmup_three_steps.build(warmup_three_steps.Config(), 60)
    peak, drops = 3, [0.4 * 57, 0.6 * 57, 0.8 * 57]
    assert [BASE * factor(step) for step in range(peak)] == pytest.approx(stuck[:peak])
    for step in range(peak, 60):
        assert factor(step) == pytest.approx(0.3 ** sum(step - peak >= drop for drop in drops))
    assert factor(59) == pytest.approx(0.027)


@pytest.mark.parametrize("steps", [95, 100, 1000])
def test_three_steps_drops_at_the_step_that_is_a_milestone(steps):
    """0.6 * 90 and the like are not whole numbers in binary."""
    config = warmup_three_steps.Config(peak_step=steps // 10, gamma=0.1)
    factor = warmup_three_steps.build(config, steps)
    left = steps - steps // 10
    for power, fifths in enumerate((2, 3, 4), 1):
        milestone = steps // 10 - (-fifths * left // 5)
        assert factor(milestone - 1) == pytest.approx(0.1 ** (power - 1))
        assert factor(milestone) == pytest.approx(0.1**power)


@pytest.mark.parametrize("schedule", PEAKED)
def test_starts_at_its_factor_and_peaks_at_one(schedule):
    factor = schedule.build(schedule.Config(start_factor=0.2, peak_step=4), 20)
    assert [factor(step) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert schedule.build(schedule.Config(peak_fraction=0.0), 20)(0) == 1.0


@pytest.mark.parametrize("schedule", [*PEAKED, cosine_cycles])
def test_stays_at_its_end(schedule):
    factor = schedule.build(schedule.Config(), 20)
    ends = {linear_warmup: 1.0, warmup_three_steps: 0.027}
    assert [factor(step) for step in (20, 21, 1000)] == pytest.approx([ends.get(schedule, 0.0)] * 3)


@pytest.mark.parametrize("schedule", PEAKED)
def test_a_peak_after_the_training_is_refused(schedule):
    assert schedule.build(schedule.Config(peak_step=9), 10)(9) == 1.0
    with pytest.raises(ConfigError, match=r"schedule\.peak_step: 10 is not allowed; must be less than 10, the steps"):
        schedule.build(schedule.Config(peak_step=10), 10)


def test_cycles_and_amplitude():
    straight = cosine_cycles.build(cosine_cycles.Config(amplitude=0.0), 10)
    assert [straight(step) for step in (0, 5, 10)] == [1.0, 0.5, 0.0]
    once = cosine_cycles.build(cosine_cycles.Config(cycles=1, amplitude=1.0), 8)
    assert once(2) == pytest.approx(0.75 * 2) and once(6) == pytest.approx(0.0)
