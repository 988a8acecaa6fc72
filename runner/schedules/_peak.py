"""The linear rise of the schedules that were stable_ssl's: their warm-up is a share of the training."""

from collections.abc import Callable

from pydantic import Field

from runner.explain import OptionError
from runner.schema import Options


class PeakOptions(Options):
    start_factor: float = Field(default=0.01, ge=0, le=1)
    """Multiplier of the base learning rate at the first step."""

    peak_fraction: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps, rounded down, after which the base learning rate is reached."""

    peak_step: int | None = Field(default=None, ge=0)
    """The step at which the base learning rate is reached, in place of `peak_fraction`."""


def until_peak(options: PeakOptions, steps: int, after: Callable[[int, int], float]) -> Callable[[int], float]:
    """The multiplier of the base learning rate: `start_factor` to 1 in a straight line, then `after(done, left)`.

    From the peak on, `done` steps of the `left` there were at the peak are behind; one past the last step and
    beyond, all of them are.

    Raises ConfigError if the peak is not before the end of the training.
    """
    peak = int(options.peak_fraction * steps) if options.peak_step is None else options.peak_step
    if peak >= steps:
        problem = f"{peak} is not allowed; must be less than {steps}, the steps of the whole training"
        raise OptionError("schedule.peak_step", problem)

    def factor(step: int) -> float:
        if step < peak:
            return options.start_factor + (1 - options.start_factor) * step / peak
        return after(min(step, steps) - peak, steps - peak)

    return factor
