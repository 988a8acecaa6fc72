"""A short linear rise from `start_factor`, then half a cosine from the base learning rate to `end_factor` of it.

The warm-up is a share of the training; `cosine` is the same with a warm-up in steps.
"""

import math
from collections.abc import Callable

from pydantic import Field

from runner.schedules._peak import PeakOptions, until_peak


class Config(PeakOptions):
    peak_fraction: float = Field(default=0.01, ge=0, lt=1)
    """Share of the steps, rounded down, after which the base learning rate is reached."""

    end_factor: float = Field(default=0.0, ge=0, le=1)
    """Multiplier of the base learning rate at the end of the training."""


def build(config: Config, steps: int) -> Callable[[int], float]:
    """Multiplier of the base learning rate at an optimizer step."""
    end = config.end_factor
    return until_peak(config, steps, lambda done, left: end + (1 - end) * (1 + math.cos(math.pi * done / left)) / 2)
