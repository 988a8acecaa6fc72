"""The linear warm-up that every schedule starts with."""

from collections.abc import Callable

from pydantic import Field

from runner.experiment import check_warmup
from runner.schema import Options


class WarmupOptions(Options):
    warmup_steps: int = Field(default=0, ge=0)
    """Optimizer steps over which the learning rate rises linearly; 0 starts at the full rate."""

    warmup_from_zero: bool = False
    """Rise from 0, so that the first step learns nothing, instead of from one step above it."""


class DecayOptions(WarmupOptions):
    end_factor: float = Field(default=0.0, ge=0, le=1)
    """Multiplier of the base learning rate at the end of the training."""


def after_warmup(options: WarmupOptions, steps: int, decay: Callable[[float], float]) -> Callable[[int], float]:
    """The multiplier of the base learning rate as a function of the optimizer step.

    Step k of the warm-up has (k + 1) / (warmup_steps + 1): the first step already learns, and the full rate
    comes first at step `warmup_steps`. From zero it has k / warmup_steps. From there on it is `decay` of the
    progress, which goes from 0 to 1 at `steps`, one past the last step, and stays 1 beyond.

    Raises ConfigError if the warm-up is longer than the training.
    """
    warmup_steps, before_first = options.warmup_steps, int(not options.warmup_from_zero)
    check_warmup(warmup_steps, steps)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + before_first) / (warmup_steps + before_first)
        progress = (step - warmup_steps) / max(1, steps - warmup_steps)
        return decay(min(1.0, progress))

    return factor
