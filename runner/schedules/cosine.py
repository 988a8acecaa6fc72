"""Linear warm-up, then half a cosine from the base learning rate to `end_factor` of it.

Source: SGDR (Loshchilov & Hutter 2017, eq. 5), one cycle.
"""

import math
from collections.abc import Callable

from runner.schedules._warmup import DecayOptions, after_warmup


class Config(DecayOptions): ...


def build(config: Config, steps: int) -> Callable[[int], float]:
    """Multiplier of the base learning rate at an optimizer step."""
    end = config.end_factor
    return after_warmup(config, steps, lambda progress: end + (1 - end) * (1 + math.cos(math.pi * progress)) / 2)
