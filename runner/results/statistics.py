"""Mean, deviation and 95 % interval of a few values, and of the differences between pairs of them."""

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

CONFIDENCE = 0.95

SAME = 1e-9
"""Of the largest difference: those of shares such as k/2000 that are equal differ in their last bits."""

LARGEST_EXACT = 200
"""Pairs up to which the exact distribution of Wilcoxon's statistic takes no time."""

FEWEST_FOR_RANKS = 6
"""Pairs below which no signed-rank test can reach p = 0.05, whatever the differences are."""


@dataclass(frozen=True)
class Spread:
    """A few values of one metric; all but the mean is None for a single value."""

    mean: float
    std: float | None
    """Sample standard deviation (n - 1)."""

    n: int

    @property
    def sem(self) -> float | None:
        """Standard error of the mean."""
        return None if self.std is None else self.std / math.sqrt(self.n)

    @property
    def half_width(self) -> float | None:
        """Of the 95 % confidence interval of the mean, by Student's t."""
        return None if self.sem is None else self.sem * student_quantile(self.n - 1)

    @property
    def interval(self) -> list[float] | None:
        """The 95 % confidence interval of the mean."""
        half = self.half_width
        return None if half is None else [self.mean - half, self.mean + half]

    def as_json(self) -> dict[str, Any]:
        return {"mean": self.mean, "std": self.std, "sem": self.sem, "ci95": self.interval, "n": self.n}


@dataclass(frozen=True)
class Paired:
    """How much higher the second value of each pair is than the first."""

    difference: Spread
    p_value: float | None
    """Of the two-sided paired t test; None for one pair, and where all pairs differ by the same."""

    wilcoxon_p_value: float | None
    """Of the exact two-sided signed-rank test; None for fewer than 6 or more than 200 pairs that differ."""

    def as_json(self) -> dict[str, Any]:
        return {**self.difference.as_json(), "p": self.p_value, "wilcoxon_p": self.wilcoxon_p_value}


def measure(values: list[float]) -> Spread | None:
    """Mean and deviation; None without values."""
    if not values:
        return None
    count = len(values)
    # What is not finite must show: fsum refuses some of it.
    if not all(map(math.isfinite, values)):
        return Spread(math.nan, math.nan if count > 1 else None, count)
    # The mean of equal values is that value, and not one beside it by rounding.
    mean = values[0] if min(values) == max(values) else math.fsum(values) / count
    squares = math.fsum((value - mean) ** 2 for value in values)
    return Spread(mean, math.sqrt(squares / (count - 1)) if count > 1 else None, count)


def measure_pairs(differences: list[float]) -> Paired | None:
    """Mean difference of pairs, with the tests of whether it is none; None without pairs."""
    if differences and max(differences) - min(differences) <= SAME * max(map(abs, differences)) < math.inf:
        # The same but for rounding, of which a t test would make much.
        differences = [differences[0]] * len(differences)
    spread = measure(differences)
    if spread is None:
        return None
    return Paired(spread, _student_p_value(spread), wilcoxon_p_value(differences))


@cache
def student_quantile(freedom: int) -> float:
    """Half-width of the 95 % interval of a mean in standard errors."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2))


def wilcoxon_p_value(differences: list[float]) -> float | None:
    """p of Wilcoxon's two-sided signed-rank test, exact with ties too; differences of zero are left out.

    Under the hypothesis each rank is added or not with the same probability, so the distribution of the sum of ranks
    grows by one convolution a rank. Ranks are doubled: those of ties end in one half.
    """
    import numpy as np

    values = np.array(differences)
    values = values[np.abs(values) > SAME * np.abs(values).max(initial=0)]
    if not FEWEST_FOR_RANKS <= len(values) <= LARGEST_EXACT or not np.isfinite(values).all():
        return None
    ranks = _doubled_ranks(np.abs(values))
    chances = np.zeros(sum(ranks) + 1)
    chances[0] = 1.0
    for rank in ranks:
        chances[rank:] = (chances[rank:] + chances[:-rank]) / 2
        chances[:rank] /= 2
    positive = sum(rank for rank, value in zip(ranks, values, strict=True) if value > 0)
    return min(1.0, 2 * float(min(chances[: positive + 1].sum(), chances[positive:].sum())))


def _doubled_ranks(sizes_N: Any) -> list[int]:
    """Twice the rank of each size, from 1 on; those that are the same but for rounding share the mean of theirs."""
    import numpy as np

    order_N = sizes_N.argsort()
    is_larger_N = np.diff(sizes_N[order_N], prepend=sizes_N.min()) > SAME * sizes_N.max()
    level_N = np.empty(len(sizes_N), dtype=int)
    level_N[order_N] = is_larger_N.cumsum()
    return [int((level_N < level).sum() * 2 + (level_N == level).sum() + 1) for level in level_N]


def _student_p_value(spread: Spread) -> float | None:
    from scipy.special import stdtr

    if not spread.sem or not math.isfinite(spread.sem):
        return None
    return float(2 * stdtr(spread.n - 1, -abs(spread.mean / spread.sem)))
