"""Settings side by side: mean with error bars and every trial of a metric, a line each."""

from typing import Any

from runner.plot.figure import COLORS, MOST_LABELS, literal, new_figure
from runner.plot.scene import Scene


def plot_settings(scene: Scene) -> Any:
    """The metric is the horizontal axis, so that long names have room."""
    groups = scene.measured()
    figure, axes = new_figure(scene.heading(scene.most))
    for place, group in enumerate(groups):
        values, found = group.values(scene.metric), group.spread(scene.metric)
        assert found is not None, "a measured group has values"
        look = {"color": COLORS[0], "marker": "o", "markersize": 5, "capsize": 4}
        axes.errorbar(found.mean, place, xerr=scene.half(found), linestyle="", zorder=3, **look)
        axes.plot(values, [place] * len(values), linestyle="", marker="o", markersize=4, color="0.6", zorder=2)
    if len(groups) <= MOST_LABELS:
        axes.set_yticks(range(len(groups)), [scene.label(group) or "all trials" for group in groups], fontsize=8)
        figure.set_figheight(max(3.0, 1.2 + 0.3 * len(groups)))
    else:
        axes.set_ylabel("setting, in the order of the table")
    axes.margins(y=0.5 / len(groups) + 0.02)
    axes.invert_yaxis()
    axes.set_xlabel(literal(scene.metric))
    return figure
