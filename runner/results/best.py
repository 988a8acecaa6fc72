"""Which trial, or which group of trials, is the best by a metric."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from runner.errors import ConfigError
from runner.results.groups import Setting
from runner.results.names import find_metric
from runner.results.trials import TrialResult

LOWER_IS_BETTER = {
    *("loss", "error", "err", "perplexity", "ppl", "nll", "mse", "rmse", "mae", "brier", "ece", "distance"),
    *("latency", "seconds", "minutes", "memory"),
}
"""Words in the name of a metric of which less is better; of any other, more is."""


@dataclass(frozen=True)
class Goal:
    """A metric, and whether more of it is better."""

    metric: str
    higher: bool

    def __str__(self) -> str:
        return f"{self.metric}, {self.way} is better"

    @property
    def way(self) -> str:
        return "higher" if self.higher else "lower"

    def rank(self, value: float | None) -> float:
        """Lowest for the best value; what is no number comes last."""
        if value is None or math.isnan(value):
            return math.inf
        return -value if self.higher else value


@dataclass(frozen=True)
class Choice:
    """The best of several trials or groups, and how many it was chosen among."""

    place: int
    among: int
    is_whole: bool
    """All of it is done."""


def higher_is_better(metric: str) -> bool:
    """By the words of its name: `test/linear_top1` yes, `train/loss` no."""
    return not LOWER_IS_BETTER & set(re.split(r"[^a-z]+", metric.lower()))


def parse_goal(text: str, names: Sequence[str]) -> Goal:
    """`METRIC`, `METRIC:min` or `METRIC:max`. Raises: ConfigError for a metric that no trial has."""
    name, colon, way = text.rpartition(":")
    if not colon:
        metric = find_metric("--best", text, names)
        return Goal(metric, higher_is_better(metric))
    if way not in ("min", "max"):
        raise ConfigError(f"--best {text}: after the colon comes min or max")
    return Goal(find_metric("--best", name, names), way == "max")


def best_trial(results: list[TrialResult], goal: Goal) -> Choice | None:
    """The best of those that are done; of all if none is. None where no trial has the metric."""
    return _choose([result.metrics.get(goal.metric) for result in results], [r.state == "done" for r in results], goal)


def best_group(groups: list[Setting], goal: Goal) -> Choice | None:
    """The group with the best mean of those with the most trials done: one lucky seed beats no three."""
    counts = [len(group.values(goal.metric)) for group in groups]
    spreads = [group.spread(goal.metric) for group in groups]
    fullest = [count == max(counts, default=0) for count in counts]
    choice = _choose([None if spread is None else spread.mean for spread in spreads], fullest, goal)
    if choice is None:
        return None
    group = groups[choice.place]
    return Choice(choice.place, choice.among, len(group.done) == group.expected)


def _choose(values: list[float | None], eligible: list[bool], goal: Goal) -> Choice | None:
    ranks = [goal.rank(value) for value in values]
    for pool in ([place for place, chosen in enumerate(eligible) if chosen], list(range(len(values)))):
        pool = [place for place in pool if ranks[place] < math.inf]
        if pool:
            best = min(pool, key=lambda place: ranks[place])
            return Choice(best, len(pool), eligible[best])
    return None
