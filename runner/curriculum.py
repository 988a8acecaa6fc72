"""The stages of a training as a function of its progress: nothing to save, nothing to restore after a requeue."""

from typing import Literal

from runner.errors import ConfigError

Stage = Literal["naive", "linear", "nonlinear"]
STAGES: tuple[Stage, ...] = ("naive", "linear", "nonlinear")
"""ContraBin's: no interpolation, one weight for a sample, one weight for a number."""


def stage_at(position: int, naive: int, linear: int) -> Stage:
    """The stage of an epoch or step, counted from 0: `naive` of them, then `linear`, then nonlinear to the end."""
    if position < naive:
        return "naive"
    return "linear" if position < naive + linear else "nonlinear"


def stage_at_step(step: int, steps: int, shares: tuple[float, float, float]) -> Stage:
    """The stage of an optimizer step out of `steps`, when the stages share them in these proportions.

    A stage begins at the first step whose progress, step / steps, has reached the shares before it. So with
    steps in whole epochs and shares (10, 5, 5), stages change where epochs 10 and 15 of 20 begin.

    Raises ConfigError unless the shares are at least 0 and one of them is more.
    """
    if min(shares) < 0 or sum(shares) <= 0:
        raise ConfigError(f"curriculum: {shares} must be at least 0, and one of them above")
    reached = step / steps * sum(shares)
    return "naive" if reached < shares[0] else "linear" if reached < shares[0] + shares[1] else "nonlinear"
