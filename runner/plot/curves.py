"""A metric by step: a line for each setting, with a band over its seeds."""

import math
from typing import Any

from runner.errors import ConfigError
from runner.files import read_rows
from runner.plot.figure import add_legend, literal, new_figure, style
from runner.plot.scene import Scene
from runner.results.groups import Setting
from runner.results.statistics import measure
from runner.results.trials import TrialResult
from runner.rundir import RunDir

FEW_POINTS = 30
"""Up to which every point has a marker."""

MOST_POINTS = 600
"""Of a line: more than a picture has columns of pixels, and few enough for a small file."""

Curve = dict[int, float]
"""Value by step."""

Logs = dict[RunDir | None, list[dict[str, Any]]]
"""Rows of metrics.jsonl, by run folder."""


def plot_curves(scene: Scene) -> Any:
    """Mean and spread of the trials that are done, at the steps that all of them have; the others are thin lines.

    A mean over fewer trials where some end early would jump though nothing happened. Raises: ConfigError without
    metrics.
    """
    trials = [trial for group in scene.groups for trial in group.trials]
    logs: Logs = {trial.run: read_rows(trial.run.metrics) for trial in trials if trial.run and trial.metrics}
    metric = choose_curve(scene.metrics, logs)
    if metric is None:
        raise ConfigError(f"no trial of {scene.title} has logged {scene.metric} yet")
    drawn = [(group, curves) for group in scene.groups if (curves := curves_of(group, logs, metric))]
    most = max(sum(trial.counts for trial, _ in curves) for _, curves in drawn)
    figure, axes = new_figure(scene.heading(most))
    for place, (group, curves) in enumerate(drawn):
        _draw(axes, scene, group, curves, style(place))
    _explain_ends(axes, {trial.standing for _, curves in drawn for trial, _ in curves})
    axes.set_xlabel("step")
    axes.set_ylabel(literal(metric))
    add_legend(figure, axes, len(axes.get_legend_handles_labels()[1]))
    return figure


def choose_curve(metrics: list[str], logs: Logs) -> str | None:
    """The first metric that was logged at several steps of a trial, else the first that was logged at all."""
    most: dict[str, int] = {}
    for rows in logs.values():
        for name in metrics:
            most[name] = max(most.get(name, 0), sum(name in row for row in rows))
    for enough in (2, 1):
        if found := [name for name in metrics if most.get(name, 0) >= enough]:
            return found[0]
    return None


def curves_of(group: Setting, logs: Logs, metric: str) -> list[tuple[TrialResult, Curve]]:
    """The trials of a group that logged a metric, each with its values by step."""
    curves = [
        (trial, {row["step"]: row[metric] for row in logs.get(trial.run, []) if metric in row})
        for trial in group.trials
    ]
    return [(trial, curve) for trial, curve in curves if curve]


def thin(curve: Curve, most: int = MOST_POINTS) -> list[int]:
    """The steps of a curve to draw, in order: of many the first, the last, and of each stretch the lowest and highest.

    So no peak is lost.
    """
    steps = sorted(curve)
    if len(steps) <= most:
        return steps
    length = math.ceil(2 * len(steps) / (most - 2))
    stretches = [steps[begin : begin + length] for begin in range(0, len(steps), length)]
    kept = {end(stretch, key=lambda step: curve[step]) for stretch in stretches for end in (min, max)}
    return sorted({*kept, steps[0], steps[-1]})


def _draw(
    axes: Any, scene: Scene, group: Setting, curves: list[tuple[TrialResult, Curve]], look: dict[str, Any]
) -> None:
    done = [curve for trial, curve in curves if trial.counts]
    steps = sorted(set.intersection(*map(set, done))) if done else []
    label = scene.label(group)
    if steps:
        found = {step: spread for step in steps if (spread := measure([curve[step] for curve in done])) is not None}
        steps = thin({step: spread.mean for step, spread in found.items()})
        spreads = [found[step] for step in steps]
        means, halves = [spread.mean for spread in spreads], [scene.half(spread) for spread in spreads]
        count = f"n={len(done)}" if len(done) == group.expected else f"n={len(done)}/{group.expected}"
        marked = look if len(steps) <= FEW_POINTS else {**look, "marker": None}
        axes.plot(steps, means, label=f"{label}, {count}" if label else count, linewidth=1.8, markersize=4, **marked)
        if len(done) > 1:
            lower = [mean - half for mean, half in zip(means, halves, strict=True)]
            upper = [mean + half for mean, half in zip(means, halves, strict=True)]
            axes.fill_between(steps, lower, upper, color=look["color"], alpha=0.18, linewidth=0)
    for trial, curve in curves:
        if not trial.counts:
            at, color = thin(curve), look["color"]
            axes.plot(at, [curve[step] for step in at], color=color, linewidth=0.8, linestyle=":")
            axes.plot(at[-1:], [curve[at[-1]]], color=color, marker=_end_marker(trial.standing), markersize=7, zorder=4)


def _explain_ends(axes: Any, states: set[str]) -> None:
    for state in sorted(states - {"done"}):
        axes.plot([], [], color="0.4", linestyle=":", linewidth=0.8, marker=_end_marker(state), label=state)


def _end_marker(state: str) -> str:
    """How the last point of a trial that counts in no mean is marked."""
    if state == "pruned":
        return "|"
    return ">" if state in ("pending", "running", "requeued") else "x"
