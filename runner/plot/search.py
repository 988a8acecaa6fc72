"""The trials of a search in their order: what each gave, and the best so far."""

from itertools import accumulate
from typing import Any

from runner.errors import ConfigError
from runner.plot.figure import add_legend, new_figure, style
from runner.plot.scene import Scene
from runner.results.trials import TrialResult
from runner.search import read_search
from runner.search_config import SearchConfig

MARKERS = {"done": "o", "pruned": "x"}
"""Of the trials; one that ended otherwise gave nothing to compare."""


def plot_search(scene: Scene) -> Any:
    """A line of the best value so far for each study, by the number of the trial; pruned trials do not count for it."""
    studies: dict[str, tuple[SearchConfig, list[TrialResult]]] = {}
    for trial in (trial for group in scene.groups for trial in group.trials):
        if trial.is_certain and trial.run is not None and (search := read_search(trial.run)) is not None:
            studies.setdefault(search.study, (search, []))[1].append(trial)
    if not studies:
        raise ConfigError(f"--kind search: no trial of {scene.title} is of a `sweep: search:`")
    first = next(iter(studies.values()))[0]
    # The one that was named, else what is searched for.
    metric = scene.metric if len(scene.metrics) == 1 else first.metric
    figure, axes = new_figure(scene.title)
    for place, (search, trials) in enumerate(studies.values()):
        _draw(axes, search, trials, metric, style(place), _label(trials, len(studies)))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("number of the trial")
    axes.set_ylabel(metric)
    add_legend(figure, axes, len(axes.get_legend_handles_labels()[1]))
    return figure


def _draw(
    axes: Any, search: SearchConfig, trials: list[TrialResult], metric: str, look: dict[str, Any], label: str
) -> None:
    look = {"color": look["color"], "linestyle": look["linestyle"]}
    for state, marker in MARKERS.items():
        if points := _points(trials, metric, state):
            numbers, values = zip(*points, strict=True)
            told = f"{state}{label}" if state == "pruned" else ""
            axes.plot(numbers, values, marker, color=look["color"], alpha=0.55, markersize=5, label=told or None)
    if done := _points(trials, metric, "done"):
        better = max if search.direction == "maximize" else min
        numbers, values = zip(*done, strict=True)
        axes.step(numbers, list(accumulate(values, better)), where="post", label=f"best so far{label}", **look)


def _points(trials: list[TrialResult], metric: str, state: str) -> list[tuple[int, float]]:
    chosen = [trial for trial in trials if trial.state == state and metric in trial.metrics]
    return sorted((trial.settings["search.number"], trial.metrics[metric]) for trial in chosen)


def _label(trials: list[TrialResult], studies: int) -> str:
    """What sets a study apart: what the sweep set in all its trials alike."""
    if studies == 1:
        return ""
    alike = [
        f"{key.rpartition('.')[2]} {value}"
        for key, value in trials[0].overrides.items()
        if key != "search.number" and all(trial.overrides.get(key) == value for trial in trials)
    ]
    return f", {', '.join(alike)}" if alike else ""
