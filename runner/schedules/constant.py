"""Linear warm-up, then the base learning rate to the end."""

from collections.abc import Callable

from runner.schedules._warmup import WarmupOptions, after_warmup


class Config(WarmupOptions): ...


def build(config: Config, steps: int) -> Callable[[int], float]:
    """Multiplier of the base learning rate at an optimizer step."""
    return after_warmup(config, steps, lambda progress: 1.0)
