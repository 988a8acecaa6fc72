"""What `sweep: search:` asks for, and what of it each of its trials carries in its config."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from runner.distribution import Distribution
from runner.explain import OptionError
from runner.schema import Options


class PrunerConfig(Options):
    """When a trial that does worse than those before it ends early."""

    name: Literal["median", "percentile"]
    """median: its best evaluation so far is worse than the median of the others' at the same evaluation."""

    percentile: Annotated[float, Field(gt=0, lt=100)] | None = None
    """For percentile: so many percent of the trials, the best of them, go on."""

    startup_trials: int = Field(default=5, ge=1)
    """Trials that are trained to their end before any is pruned."""

    warmup_evaluations: int = Field(default=0, ge=0)
    """Evaluations of a trial before it may be pruned."""

    @model_validator(mode="after")
    def check(self) -> Self:
        if (self.name == "percentile") != (self.percentile is not None):
            problem = "is missing" if self.name == "percentile" else f"is no option of {self.name}; leave it out"
            raise OptionError("percentile", problem)
        return self


class SearchOptions(Options):
    """What is searched, for what, and how."""

    metric: str
    """`<data set>/<probe>_<metric>`, such as validation/linear_top1; or one of the training, such as train/loss."""

    direction: Literal["maximize", "minimize"]
    """Which values of the metric are better."""

    sampler: Literal["tpe", "gp", "random"] = "tpe"
    """tpe: tree-structured Parzen estimator; gp: Gaussian process; random: what `random:` would draw."""

    startup_trials: int = Field(default=10, ge=1)
    """Trials at random before tpe or gp begin."""

    seed: int = Field(default=0, ge=0)
    """Of the sampler; each trial has a stream of its own."""

    parameters: dict[str, Distribution] = Field(min_length=1)
    """Dotted keys, and where their values come from."""

    pruner: PrunerConfig | None = None
    """None: every trial is trained to its end."""


class SearchConfig(SearchOptions):
    """The place of a trial in a search."""

    study: str
    """Hash of what the trials of a search have in common."""

    number: int = Field(ge=0)

    drawn: bool = False
    """The config has the parameters that were drawn; before that they stand at the lower end of their ranges."""
