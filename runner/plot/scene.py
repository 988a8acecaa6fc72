"""What a picture is of."""

import math
from dataclasses import dataclass
from typing import Any

from runner.errors import ConfigError
from runner.plot.figure import literal
from runner.results.groups import Setting
from runner.results.sheet import SpreadKind
from runner.results.statistics import Spread
from runner.strict_yaml import is_number
from runner.tables import describe, short_names, varying_keys

_BARS = {"std": "standard deviation", "ci": "95 % confidence interval", "sem": "standard error"}


@dataclass(frozen=True)
class Scene:
    """Groups of trials, and which metric of them."""

    title: str
    metrics: list[str]
    """The one that was named; else all, the main one first."""

    groups: list[Setting]
    x: str | None = None
    """The key of the horizontal axis, where the picture has a choice."""

    spread: SpreadKind = "std"

    @property
    def metric(self) -> str:
        return self.metrics[0]

    @property
    def keys(self) -> list[str]:
        """In which the groups differ."""
        return varying_keys([group.settings for group in self.groups])

    @property
    def known(self) -> tuple[str, ...]:
        """Every key of the sweeps' configs."""
        return self.groups[0].known if self.groups else ()

    @property
    def most(self) -> int:
        """Trials in the fullest group."""
        return max((len(group.values(self.metric)) for group in self.groups), default=0)

    def label(self, group: Setting, without: str | None = None) -> str:
        return literal(describe(group.settings, [key for key in self.keys if key != without], self.known))

    def half(self, spread: Spread) -> float:
        """How far an error bar reaches; nothing for a single trial."""
        return {"std": spread.std, "ci": spread.half_width, "sem": spread.sem}[self.spread] or 0.0

    def heading(self, most: int) -> str:
        """The title, with what the bars or bands are over up to `most` trials."""
        return f"{self.title}: mean and {_BARS[self.spread]} of up to {most} trials" if most > 1 else self.title

    def measured(self) -> list[Setting]:
        """Groups that have a mean. Raises: ConfigError when there is none."""
        groups = [group for group in self.groups if group.values(self.metric)]
        if not groups:
            raise ConfigError(f"{self.title}: no trial that is done has {self.metric}; --kind curves shows the others")
        return groups

    def fitting_kind(self) -> str:
        """A search in the order of its trials, one number against the metric, other settings in a row, else curves."""
        done = [group for group in self.groups if group.values(self.metric)]
        if len(done) < 2:
            return "curves"
        if self.x is None and all("search.number" in group.settings for group in self.groups):
            return "search"
        keys = self.keys
        one_number = len(keys) == 1 and all(is_coordinate(group.settings.get(keys[0])) for group in done)
        return "parameter" if self.x or one_number else "settings"

    def axis(self) -> str:
        """The key of the horizontal axis: the given one, else the only number that is set.

        Raises: ConfigError when there are several, or none.
        """
        if self.x is not None:
            return self.x
        keys = [key for key in self.keys if all(is_coordinate(group.settings.get(key)) for group in self.groups)]
        if len(keys) != 1:
            there = ", ".join(short_names(self.keys, self.known)) or "nothing"
            raise ConfigError(f"--kind parameter: --x KEY says which setting is the axis; they differ in {there}")
        return keys[0]


def is_coordinate(value: Any) -> bool:
    """Whether a setting has a place on an axis: a finite number."""
    return is_number(value) and math.isfinite(value)
