"""The grammar of `sweep:` in an experiment file, and how random parameters are drawn.

    sweep:
      grid: {method.gamma: [0.0, 1.0], encoder.name: [resnet18, resnet50]}   every combination
      zip: {optimizer.lr: [1e-3, 3e-4], train.batch_size: [256, 1024]}       side by side
      list: [{method.name: scl}, {method.name: simclr, train.epochs: 50}]    one after the other
      random: {samples: 20, seed: 0, parameters: {optimizer.lr: {loguniform: [1e-5, 1e-2]}}}
      seeds: [0, 1, 2]                                                       train.seed
      when: [{if: {method.name: simclr}, grid: {method.temperature: [0.1, 0.5]}}]
      exclude: [{encoder.name: resnet50, method.gamma: 0.0}]

All kinds multiply; `when` adds dimensions to the trials that match, and may nest. `if` and `exclude` compare
what is written, a list standing for any of its values.
"""

import math
from hashlib import blake2b
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from runner.explain import OptionError
from runner.schema import Options, canonical

MAX_TRIALS = 100_000

Values = Annotated[list[Any], Field(min_length=1)]


class Distribution(Options):
    """Where a random parameter comes from; one of these."""

    uniform: tuple[float, float] | None = None
    """[low, high]"""

    loguniform: tuple[float, float] | None = None
    """[low, high], both above 0; the logarithm is uniform."""

    whole: tuple[int, int] | None = Field(default=None, alias="int")
    """[low, high], both included."""

    choice: Values | None = None
    """Any of these values."""

    @model_validator(mode="after")
    def check(self) -> Self:
        given = [limits for limits in (self.uniform, self.loguniform, self.whole) if limits is not None]
        if len(given) + (self.choice is not None) != 1:
            raise ValueError("needs exactly one of uniform, loguniform, int and choice")
        if given and given[0][0] >= given[0][1]:
            raise ValueError(f"must go from low to high, got {list(given[0])}")
        if self.loguniform is not None and self.loguniform[0] <= 0:
            raise ValueError(f"loguniform must start above 0, got {list(self.loguniform)}")
        return self


class RandomSearch(Options):
    """Parameters drawn together, `samples` times; a draw depends on seed, parameter and sample alone."""

    samples: int = Field(ge=1, le=MAX_TRIALS)
    seed: int = 0
    parameters: dict[str, Distribution] = Field(min_length=1)


class Block(Options):
    """Dimensions of a sweep; their keys are dotted."""

    grid: dict[str, Values] = Field(default_factory=dict)
    """Every combination."""

    zip: dict[str, Values] = Field(default_factory=dict)
    """Lists of one length, taken side by side."""

    cases: list[dict[str, Any]] = Field(default_factory=list, alias="list")
    """Explicit settings, one after the other."""

    random: RandomSearch | None = None
    """Random search."""

    seeds: list[int] = Field(default_factory=list)
    """Values of train.seed."""

    when: list["When"] = Field(default_factory=list)
    """Further dimensions for the trials that match."""

    @model_validator(mode="after")
    def check_content(self) -> Self:
        names = {name: field.alias or name for name, field in type(self).model_fields.items()}
        for name in self.model_fields_set:
            if getattr(self, name) in ({}, []):
                raise OptionError(names[name], "is empty; leave it out")
        return self


class When(Block):
    """Dimensions for the trials that match a condition."""

    condition: dict[str, Any] = Field(alias="if")
    """Dotted keys and the value, or list of values, that each must have."""


class Sweep(Block):
    """The `sweep` of an experiment file."""

    exclude: list[dict[str, Any]] = Field(default_factory=list)
    """Trials that match one of these are left out."""


def draw(distribution: Distribution, seed: int, name: str, index: int) -> Any:
    """Sample number `index` of a parameter: a function of (seed, name, index), whatever else is drawn."""
    digest = blake2b(f"{seed}/{name}/{index}".encode(), digest_size=8).digest()
    share = (int.from_bytes(digest, "big") >> 11) / 2**53
    if distribution.choice is not None:
        choices = sorted(distribution.choice, key=canonical)
        return choices[int(share * len(choices))]
    if distribution.whole is not None:
        low, high = distribution.whole
        return low + int(share * (high - low + 1))
    if distribution.uniform is not None:
        bottom, top = distribution.uniform
        value = bottom + share * (top - bottom)
    else:
        assert distribution.loguniform is not None
        bottom, top = distribution.loguniform
        value = math.exp(math.log(bottom) + share * (math.log(top) - math.log(bottom)))
    # Six digits: readable, and the same where another libm rounds the last bit of exp another way.
    return min(max(float(f"{value:.6g}"), bottom), top)
