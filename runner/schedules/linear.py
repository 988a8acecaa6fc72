"""Linear warm-up, then a straight line from the base learning rate to `end_factor` of it."""

from collections.abc import Callable

from runner.schedules._warmup import DecayOptions, after_warmup


class Config(DecayOptions): ...


def build(config: Config, steps: int) -> Callable[[int], float]:
    """Multiplier of the base learning rate at an optimizer step."""
    end = config.end_factor
    return after_warmup(config, steps, lambda progress: 1 + (end - 1) * progress)
