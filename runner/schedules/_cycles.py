"""The waves that two schedules share: a straight line to 0 that a sine swings around."""

import math

from pydantic import Field

from runner.schema import Options


class CyclesOptions(Options):
    cycles: int = Field(default=3, ge=1)
    """Periods of the sine."""

    amplitude: float = Field(default=0.5, ge=0, le=1)
    """Height of the sine, relative to the line."""


def swing(progress: float, options: CyclesOptions) -> float:
    """(1 - u) (1 + amplitude sin(2 pi cycles u)) at progress u from 0 to 1; its maximum is above 1."""
    return (1 - progress) * (1 + options.amplitude * math.sin(2 * math.pi * options.cycles * progress))
