"""Pictures of sweeps. A kind is one function of a scene, in a module of its own, and a line in KINDS."""

from collections.abc import Callable
from pathlib import Path

from runner.errors import ConfigError
from runner.explain import did_you_mean
from runner.plot.curves import plot_curves
from runner.plot.figure import FORMATS, save
from runner.plot.parameter import plot_parameter
from runner.plot.scene import Scene
from runner.plot.search import plot_search
from runner.plot.settings import plot_settings
from runner.results import Setting, TrialResult, group_seeds, metric_names
from runner.results.names import find_metric
from runner.results.sheet import SpreadKind

KINDS: dict[str, Callable[[Scene], object]] = {
    "curves": plot_curves,
    "parameter": plot_parameter,
    "search": plot_search,
    "settings": plot_settings,
}
"""Each returns a matplotlib figure. Raises: ConfigError when there is nothing to draw, or an option is missing."""


def plot_results(
    path: Path,
    title: str,
    results: list[TrialResult],
    groups: list[Setting] | None = None,
    *,
    kind: str | None = None,
    x: str | None = None,
    metric: str | None = None,
    spread: SpreadKind = "std",
) -> None:
    """Draw trials into a file; without a kind, settings against their main metric once two of them are done.

    Trials are grouped over their seeds unless `groups` says how; `x` is a full key. Raises: ConfigError for a suffix
    that names no picture format, an unknown kind or metric, and when there is nothing to draw yet.
    """
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"{path}: the suffix must be one of {', '.join(FORMATS)}")
    if kind is not None and kind not in KINDS:
        raise ConfigError(f"--kind {kind}: no such picture; {did_you_mean(kind, KINDS)}")
    groups = _group(results, groups, x)
    names = metric_names(results)
    if not names:
        raise ConfigError(f"no trial of {title} has metrics yet")
    metrics = names if metric is None else [find_metric("--metric", metric, names)]
    scene = Scene(title, metrics, groups, x, spread)
    save(KINDS[kind or scene.fitting_kind()](scene), path)


def _group(results: list[TrialResult], groups: list[Setting] | None, x: str | None) -> list[Setting]:
    """Over seeds unless they are given, or the seed is the horizontal axis. Raises: ConfigError where both are one."""
    if groups is not None:
        if x is not None and any(group.over == x for group in groups):
            raise ConfigError(f"--x {x}: is what --over groups over; leave one of them out")
        return groups
    groups = group_seeds(results)
    if x is None or all(group.over != x for group in groups):
        return groups
    return [Setting(result.settings, [result], [], result.overrides) for result in results]
