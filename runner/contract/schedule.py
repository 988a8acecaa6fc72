"""What every schedule keeps."""

import math
from collections.abc import Mapping
from typing import Any

from runner import named
from runner.contract.surroundings import no_global_draws, resolve, undisturbed


def check_schedule(config: Mapping[str, Any], steps: int = 60) -> None:
    """A finite multiplier of 0 or more at every step, a function of the step alone, that stays at its end."""
    name, options = resolve("schedules", config)
    with undisturbed(), no_global_draws(name, of_torch=True):
        factor = named.load("schedules", name).build(options, steps)
        factors = [factor(step) for step in range(steps + 1)]
        backwards = [factor(step) for step in reversed(range(steps + 1))]
    for step, value in enumerate(factors):
        assert isinstance(value, int | float), f"{name}: gives {value!r} at step {step}; a multiplier is a number"
        assert math.isfinite(value) and value >= 0, f"{name}: {value} at step {step} of {steps}; must be 0 or more"
    assert max(factors[:steps]) > 0, f"{name}: is 0 at each of {steps} steps, so nothing is learnt"
    assert factors == backwards[::-1], f"{name}: is no function of the step: a second look gives other values"
    beyond = {factor(step) for step in (steps + 1, steps + 7, 10 * steps)}
    assert beyond == {factors[-1]}, f"{name}: goes on after the last step, from {factors[-1]} to {sorted(beyond)}"
