"""The grammar of `sweep:` in an experiment file.

    sweep:
      grid: {method.gamma: [0.0, 1.0], encoder.name: [resnet18, resnet50]}   every combination
      zip: {optimizer.lr: [1e-3, 3e-4], train.batch_size: [256, 1024]}       side by side
      list: [{method.name: scl}, {method.name: simclr, train.epochs: 50}]    one after the other
      random: {samples: 20, seed: 0, parameters: {optimizer.lr: {loguniform: [1e-5, 1e-2]}}}
      search: {trials: 40, metric: validation/linear_top1, direction: maximize, parameters: ...}   one by one, by what
                                                                             the trials before them gave
      seeds: [0, 1, 2]                                                       train.seed
      when: [{if: {method.name: simclr}, grid: {method.temperature: [0.1, 0.5]}}]
      exclude: [{encoder.name: resnet50, method.gamma: 0.0}]

All kinds multiply; `when` adds dimensions to the trials that match, and may nest. `if` and `exclude` compare
what is written, a list standing for any of its values.
"""

from typing import Any, Self

from pydantic import Field, model_validator

from runner.distribution import Distribution, Values
from runner.explain import OptionError
from runner.schema import Options
from runner.search_config import SearchOptions

MAX_TRIALS = 100_000
SEARCH = "search"
"""The group of a config that says of which search it is."""


class RandomSearch(Options):
    """Parameters drawn together, `samples` times; a draw depends on seed, parameter and sample alone."""

    samples: int = Field(ge=1, le=MAX_TRIALS)
    seed: int = 0
    parameters: dict[str, Distribution] = Field(min_length=1)


class Search(SearchOptions):
    """Parameters that each trial is told when it starts, by what the trials before it gave."""

    trials: int = Field(ge=1, le=MAX_TRIALS)
    """No part of what a trial is: raising it adds trials and keeps the others."""


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

    search: Search | None = None
    """A study of its own for each combination of the other dimensions."""

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
