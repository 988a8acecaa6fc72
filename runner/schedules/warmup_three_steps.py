"""A linear rise from `start_factor`, then three drops by `gamma`, after 40, 60 and 80 % of what is left."""

from collections.abc import Callable

from pydantic import Field

from runner.schedules._peak import PeakOptions, until_peak

FIFTHS = (2, 3, 4)
"""When the rate drops; whole numbers, so that no rounding moves a drop by a step."""


class Config(PeakOptions):
    start_factor: float = Field(default=0.001, ge=0, le=1)
    """Multiplier of the base learning rate at the first step."""

    peak_fraction: float = Field(default=0.05, ge=0, lt=1)
    """Share of the steps, rounded down, after which the base learning rate is reached."""

    gamma: float = Field(default=0.3, gt=0, le=1)
    """What a drop multiplies the learning rate by."""


def build(config: Config, steps: int) -> Callable[[int], float]:
    """Multiplier of the base learning rate at an optimizer step; a drop comes at the first step not before it."""
    return until_peak(
        config, steps, lambda done, left: config.gamma ** sum(5 * done >= fifths * left for fifths in FIFTHS)
    )
