"""What new_name does with the learning rate, in one line: here a linear warm-up, then one over the square root.

Works as it is. What to change: the options in `Config`, and `factor`.
"""

import math
from collections.abc import Callable

from pydantic import Field

from runner.schema import Options


class Config(Options):
    """The options in the experiment file, each with a type, its bounds, a default and a line of text."""

    warmup_steps: int = Field(default=5, ge=1)
    """Optimizer steps until the base learning rate is reached."""


def build(config: Config, steps: int) -> Callable[[int], float]:
    """Multiplier of the base learning rate at an optimizer step, a function of the step alone; `steps` in all."""

    def factor(step: int) -> float:
        done = min(step, steps) + 1
        return min(done / config.warmup_steps, math.sqrt(config.warmup_steps / done))

    return factor
