"""One setting against a metric: mean with error bars and every trial, a line for each of the other settings."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from runner.plot.figure import add_legend, literal, new_figure, style
from runner.plot.scene import Scene, is_coordinate
from runner.results.groups import Setting, identity, without
from runner.results.statistics import measure
from runner.tables import format_value, same_text

DODGE = 0.01
"""Of the width of the axis, by which series stand beside each other so that no error bar hides another."""


def plot_parameter(scene: Scene) -> Any:
    """The horizontal axis is `scene.x`: linear, logarithmic where the values are, or words side by side."""
    key, groups = scene.axis(), scene.measured()
    figure, axes = new_figure(scene.heading(scene.most))
    values = list({same_text(group.settings.get(key)): group.settings.get(key) for group in groups}.values())
    places = _set_scale(axes, values)
    series: dict[Any, list[Setting]] = {}
    for group in groups:
        series.setdefault(identity(without(group.settings, key)), []).append(group)
    joined = all(map(is_coordinate, values))
    for number, members in enumerate(series.values()):
        members = sorted(members, key=lambda group: places[same_text(group.settings.get(key))])
        xs = [places[same_text(group.settings.get(key))] for group in members]
        xs = _beside(axes, xs, number - (len(series) - 1) / 2, list(places.values()))
        look = style(number) | ({} if joined else {"linestyle": ""})
        _draw(axes, scene, members, xs, scene.label(members[0], without=key), look)
    axes.set_xlabel(literal(key))
    axes.set_ylabel(literal(scene.metric))
    add_legend(figure, axes, len(series))
    return figure


def is_log_spaced(values: Sequence[float]) -> bool:
    """Whether positive values lie more evenly on a logarithmic axis, over at least a factor of ten."""
    ordered = sorted(set(values))
    if len(ordered) < 2 or ordered[0] <= 0 or ordered[-1] / ordered[0] < 10:
        return False
    linear = [later - earlier for earlier, later in pairwise(ordered)]
    logarithmic = [math.log(later / earlier) for earlier, later in pairwise(ordered)]
    return len(ordered) == 2 or min(logarithmic) / max(logarithmic) > min(linear) / max(linear)


def _set_scale(axes: Any, values: list[Any]) -> dict[str, float]:
    """Set the scale of the horizontal axis; the place of each value on it, by its text."""
    if not all(map(is_coordinate, values)):
        axes.set_xticks(range(len(values)), [literal(format_value(value)) for value in values])
        axes.set_xlim(-0.5, len(values) - 0.5)
        return {same_text(value): float(place) for place, value in enumerate(values)}
    positive = [float(value) for value in values if value > 0]
    if is_log_spaced(positive) and min(values) >= 0:
        if len(positive) == len(values):
            axes.set_xscale("log")
        else:
            # Zero among powers of ten: it stands to the left of them.
            axes.set_xscale("symlog", linthresh=min(positive), linscale=0.5)
    if len(values) <= 8:
        axes.set_xticks(sorted(values), [format_value(value) for value in sorted(values)])
        axes.minorticks_off()
    return {same_text(value): float(value) for value in values}


def _beside(axes: Any, xs: list[float], offset: float, places: list[float]) -> list[float]:
    """`xs` moved by `offset` series along the axis, whatever its scale is."""
    import numpy as np

    scale = axes.xaxis.get_transform()
    ends = scale.transform(np.array([min(places), max(places)]))
    moved = scale.transform(np.array(xs)) + offset * DODGE * (ends[1] - ends[0])
    return [float(x) for x in scale.inverted().transform(moved)]


def _draw(axes: Any, scene: Scene, groups: list[Setting], xs: list[float], label: str, look: dict[str, Any]) -> None:
    spreads = [spread for group in groups if (spread := measure(group.values(scene.metric))) is not None]
    means, halves = [spread.mean for spread in spreads], [scene.half(spread) for spread in spreads]
    for x, group in zip(xs, groups, strict=True):
        values = group.values(scene.metric)
        if len(values) > 1:
            axes.plot([x] * len(values), values, color=look["color"], linestyle="", marker=".", alpha=0.45, zorder=2)
    axes.errorbar(xs, means, yerr=halves, label=label or None, markersize=5, linewidth=1.4, capsize=4, zorder=3, **look)
