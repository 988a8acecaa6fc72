"""Waves around a straight line from the base learning rate to 0, without warm-up."""

from collections.abc import Callable

from runner.schedules._cycles import CyclesOptions, swing


class Config(CyclesOptions): ...


def build(config: Config, steps: int) -> Callable[[int], float]:
    """Multiplier of the base learning rate at an optimizer step; up to 1 + amplitude."""
    return lambda step: swing(min(step, steps) / steps, config)
