import pytest

from runner.curriculum import STAGES, stage_at, stage_at_step
from runner.errors import ConfigError
from tests.golden import load_golden


def test_stages_of_epochs_equal_the_golden_ones():
    golden = load_golden("contrabin_schedules")
    naive, linear, _ = golden["curr_cfg"].tolist()
    assert [stage_at(epoch, naive, linear) for epoch in range(len(golden["curr_stage"]))] == golden[
        "curr_stage"
    ].tolist()


@pytest.mark.parametrize("steps_per_epoch", [1, 3, 7, 250])
@pytest.mark.parametrize("epochs", [(10, 5, 5), (2, 3, 3), (1, 1, 1), (0, 2, 1), (3, 0, 4), (2, 0, 0)])
def test_shares_of_steps_change_stage_where_epochs_begin(epochs, steps_per_epoch):
    steps = sum(epochs) * steps_per_epoch
    for step in range(steps):
        expected = stage_at(step // steps_per_epoch, *epochs[:2])
        assert stage_at_step(step, steps, epochs) == expected


def test_shares_need_not_fit_the_steps():
    assert [stage_at_step(step, 10, (0.5, 0.25, 0.25)) for step in range(10)] == (
        ["naive"] * 5 + ["linear"] * 3 + ["nonlinear"] * 2
    )
    assert [stage_at_step(step, 3, (1, 1, 1)) for step in range(3)] == list(STAGES)


@pytest.mark.parametrize("shares", [(0, 0, 0), (1, -1, 1)])
def test_impossible_shares_are_refused(shares):
    with pytest.raises(ConfigError, match="curriculum"):
        stage_at_step(0, 10, shares)
