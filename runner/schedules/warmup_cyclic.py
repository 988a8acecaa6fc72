"""A linear rise from `start_factor`, then waves around a straight line from the base learning rate to 0."""

from collections.abc import Callable

from runner.schedules._cycles import CyclesOptions, swing
from runner.schedules._peak import PeakOptions, until_peak


class Config(PeakOptions, CyclesOptions): ...


def build(config: Config, steps: int) -> Callable[[int], float]:
    """Multiplier of the base learning rate at an optimizer step; up to 1 + amplitude."""
    return until_peak(config, steps, lambda done, left: swing(done / left, config))
