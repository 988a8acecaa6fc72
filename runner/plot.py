"""One picture of a sweep: the main metric by setting with error bars, or by step if there is one setting."""

import io
import math
from pathlib import Path
from typing import Any

from runner.errors import ConfigError
from runner.files import read_rows
from runner.record import main_metric
from runner.results import Setting, TrialResult, group_seeds, metric_names, write_file
from runner.status import Row
from runner.tables import format_value, short_names, varying_keys

FORMATS = (".png", ".pdf", ".svg")
MOST_LABELS = 40
"""Settings with a line of their own; more would not be readable."""


def plot_results(
    path: Path, title: str, rows: list[Row], results: list[TrialResult], settings: list[Setting] | None = None
) -> None:
    """Draw a sweep into a file: several settings side by side, otherwise curves of the trials.

    Trials are grouped over their seeds unless `settings` says how. Raises: ConfigError for a suffix that
    names no picture format, and when there is nothing to draw yet.
    """
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"--plot {path}: the suffix must be one of {', '.join(FORMATS)}")
    settings = group_seeds(results) if settings is None else settings
    if sum(bool(setting.done) for setting in settings) > 1:
        plot_settings(path, title, settings)
    else:
        plot_curves(path, title, rows, results)


def plot_settings(path: Path, title: str, settings: list[Setting]) -> None:
    """Mean, standard deviation and every trial of the main metric, by setting.

    A setting of one number becomes the horizontal axis; others get a line each.
    """
    metric = main_metric(metric_names([trial for setting in settings for trial in setting.done]))
    assert metric is not None, "a trial that is done has metrics"
    settings = [setting for setting in settings if setting.spread(metric) is not None]
    keys = varying_keys([setting.settings for setting in settings])
    figure, axes = _figure()
    if len(keys) == 1 and all(_is_number(setting.settings.get(keys[0])) for setting in settings):
        _plot_numbers(axes, metric, keys[0], settings)
    else:
        _plot_lines(figure, axes, metric, keys, settings)
    most = max(len(setting.done) for setting in settings)
    _title(figure, f"{title}: mean and standard deviation of up to {most} trials" if most > 1 else title)
    _save(figure, path)


def plot_curves(path: Path, title: str, rows: list[Row], results: list[TrialResult]) -> None:
    """The main metric by step, a curve for each trial."""
    metric = main_metric(metric_names(results))
    curves = {row.run.trial: _curve(row, metric) for row in rows} if metric else {}
    if not any(curves.values()):
        raise ConfigError(f"--plot {path}: no trial of {title} has metrics yet")
    keys = varying_keys([result.settings for result in results])
    figure, axes = _figure()
    for result in results:
        points = curves[result.trial]
        if points:
            label = _setting(result.settings, keys) or result.trial
            label += "" if result.state == "done" else f" ({result.state})"
            marker = "o" if len(points) < 30 else None
            axes.plot(*zip(*points, strict=True), label=label, marker=marker, markersize=3, linewidth=1.2)
    axes.set_xlabel("step")
    axes.set_ylabel(metric)
    _title(figure, title)
    if len(results) <= MOST_LABELS // 2:
        axes.legend(frameon=False, fontsize=8)
    _save(figure, path)


def _plot_numbers(axes: Any, metric: str, key: str, settings: list[Setting]) -> None:
    settings = sorted(settings, key=lambda setting: setting.settings[key])
    xs = [float(setting.settings[key]) for setting in settings]
    means, errors = _spreads(settings, metric)
    axes.errorbar(xs, means, yerr=errors, marker="o", markersize=5, linewidth=1.2, capsize=4, zorder=3)
    for x, setting in zip(xs, settings, strict=True):
        values = _values(setting, metric)
        axes.plot([x] * len(values), values, linestyle="", marker="o", markersize=4, color="0.6", zorder=2)
    if min(xs) > 0 and max(xs) / min(xs) >= 30:
        axes.set_xscale("log")
    axes.set_xlabel(key)
    axes.set_ylabel(metric)


def _plot_lines(figure: Any, axes: Any, metric: str, keys: list[str], settings: list[Setting]) -> None:
    places = list(range(len(settings)))
    means, errors = _spreads(settings, metric)
    axes.errorbar(means, places, xerr=errors, linestyle="", marker="o", markersize=5, capsize=4, zorder=3)
    for place, setting in zip(places, settings, strict=True):
        values = _values(setting, metric)
        axes.plot(values, [place] * len(values), linestyle="", marker="o", markersize=4, color="0.6", zorder=2)
    if len(settings) <= MOST_LABELS:
        axes.set_yticks(places, [_setting(setting.settings, keys) or "all trials" for setting in settings], fontsize=8)
        figure.set_figheight(max(3.0, 1.2 + 0.3 * len(settings)))
    else:
        axes.set_ylabel("setting, in the order of the table")
    axes.margins(y=0.5 / len(settings) + 0.02)
    axes.invert_yaxis()
    axes.set_xlabel(metric)


def _figure() -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Not pyplot: it keeps global state and may look for a display.
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.grid(True, color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _title(figure: Any, text: str) -> None:
    # Above the whole figure: long labels leave the axes narrower than the title.
    figure.suptitle(text, fontsize=11)


def _save(figure: Any, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix.lower()[1:], dpi=150)
    write_file(path, buffer.getvalue())


def _curve(row: Row, metric: str) -> list[tuple[int, float]]:
    return [(logged["step"], logged[metric]) for logged in read_rows(row.run.metrics) if metric in logged]


def _spreads(settings: list[Setting], metric: str) -> tuple[list[float], list[float]]:
    spreads = [spread for setting in settings if (spread := setting.spread(metric)) is not None]
    return [spread.mean for spread in spreads], [spread.std or 0.0 for spread in spreads]


def _values(setting: Setting, metric: str) -> list[float]:
    return [trial.metrics[metric] for trial in setting.done if metric in trial.metrics]


def _setting(settings: dict[str, Any], keys: list[str]) -> str:
    pairs = zip(short_names(keys), keys, strict=True)
    return ", ".join(f"{name}={format_value(settings.get(key, ''))}" for name, key in pairs)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
