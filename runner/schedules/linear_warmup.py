"""A straight line from `start_factor` of the base learning rate to all of it, which then stays."""

from collections.abc import Callable

from runner.schedules._peak import PeakOptions, until_peak


class Config(PeakOptions): ...


def build(config: Config, steps: int) -> Callable[[int], float]:
    """Multiplier of the base learning rate at an optimizer step."""
    return until_peak(config, steps, lambda done, left: 1.0)
