"""A table before it has a format: heads, cells, and the notes below it."""

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from runner.record import is_evaluation
from runner.results.statistics import Spread
from runner.results.trials import TrialResult, metric_names
from runner.tables import format_value

SpreadKind = Literal["std", "ci", "sem"]

SPREADS: dict[str, str] = {
    "std": "standard deviation",
    "ci": "half-width of the 95 % confidence interval (Student's t)",
    "sem": "standard error of the mean",
}
"""What may stand after ±, by the name that chooses it."""


@dataclass(frozen=True)
class Number:
    """A value of a metric, and how far it spreads where it is a mean of several."""

    value: float
    half: float | None = None
    note: str = ""
    is_best: bool = False

    def words(self) -> tuple[str, str]:
        """The value and what stands after ±: two digits of the latter say how many the former has."""
        if self.half is None:
            return format_value(self.value), ""
        largest = max(abs(self.value), self.half)
        if not math.isfinite(largest) or self.half == 0 or largest >= 1e5 or self.half < 1e-6:
            return format_value(self.value), format_value(self.half)
        places = max(0, 1 - math.floor(math.log10(self.half)))
        return f"{self.value:.{places}f}", f"{self.half:.{places}f}"


Cell = str | Number


@dataclass(frozen=True)
class Sheet:
    """A table in any format."""

    heads: list[str]
    rows: list[list[Cell]]
    notes: list[str] = field(default_factory=list)
    """Lines below it."""

    title: str = ""
    """What the numbers are, above it."""

    metrics: frozenset[str] = frozenset()
    """Columns that may be left out where there is no room for all."""

    def keep(self, chosen: set[str]) -> "Sheet":
        """Without the metrics that are not chosen."""
        kept = [place for place, head in enumerate(self.heads) if head not in self.metrics or head in chosen]
        return replace(
            self,
            heads=[self.heads[place] for place in kept],
            rows=[[row[place] for place in kept] for row in self.rows],
            metrics=self.metrics & chosen,
        )


def number(spread: Spread | None, kind: SpreadKind, note: str = "") -> Cell:
    """A mean with the chosen spread; a single value has none."""
    if spread is None:
        return ""
    half = {"std": lambda: spread.std, "ci": lambda: spread.half_width, "sem": lambda: spread.sem}[kind]()
    return Number(spread.mean, half, note)


def rank_metrics(results: list[TrialResult]) -> list[str]:
    """Metrics of evaluations and the training loss, or all where there is none, the one to show first first.

    The first of each family goes first (of linear_top1, linear_top5 and knn_top1: linear_top1 and knn_top1). What is
    the same in all trials tells nothing: last.
    """
    names = metric_names(results)
    shown = [name for name in names if is_evaluation(name) or name == "train/loss"] or names
    stems = sorted({name.rpartition("_")[0] for name in shown if "_" in name.partition("/")[2]}, key=len)
    families: dict[str, int] = {}
    order = {}
    for place, name in enumerate(shown):
        family = next((stem for stem in stems if name.startswith(f"{stem}_")), name)
        families[family] = within = families.get(family, -1) + 1
        order[name] = (place > 0, name == "train/loss", _is_constant(results, name), within, place)
    return sorted(shown, key=lambda name: order[name])


def _is_constant(results: list[TrialResult], name: str) -> bool:
    values = [result.metrics[name] for result in results if name in result.metrics]
    return len(results) > 1 and len(set(values)) == 1
