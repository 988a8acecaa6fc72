"""The sections of what came out: the table of settings, every trial, curves, and settings against the metric."""

from collections.abc import Iterator
from dataclasses import replace

from runner.errors import ConfigError
from runner.explain import counted
from runner.plot.curves import plot_curves
from runner.plot.figure import COLORS
from runner.plot.parameter import plot_parameter
from runner.plot.scene import Scene, is_coordinate
from runner.plot.settings import plot_settings
from runner.report.html import Html, element, fold, paragraph, sheet_table
from runner.report.material import Material
from runner.report.picture import picture
from runner.results import Setting, group_by
from runner.results.groups import identity, without
from runner.results.layout import groups_sheet, trials_sheet
from runner.results.sheet import rank_metrics
from runner.results.trials import tell_flaws
from runner.tables import varying_keys

MOST_COLUMNS = 6
"""Metrics of the table."""

MOST_LINES = 30
"""Settings up to which the table has them all; of more it has the best, and the others are folded away."""

MOST_CURVES = len(COLORS)
"""Lines that nobody confuses."""

MOST_PARAMETERS = 4

LONG_NAME = 24
"""Letters of a setting beside which a narrow picture has no room for the numbers."""


def tell_results(material: Material) -> Html:
    """One line a setting, then one a trial."""
    ranked = rank_metrics(material.results)
    goal = [material.goal.metric] if material.goal else []
    metrics = list(dict.fromkeys([*goal, *ranked]))[:MOST_COLUMNS]
    shown = material.groups if len(material.groups) <= MOST_LINES else material.ranked()[:MOST_LINES]
    sheet = groups_sheet(shown, material.keys, metrics)
    parts: list[Html] = []
    if len(shown) < len(material.groups):
        words = f"The best {len(shown)} of {len(material.groups)} settings, {sheet.title}."
        everything = groups_sheet(material.groups, material.keys, metrics)
        parts = [paragraph(words, class_="note"), sheet_table(sheet, "results")]
        parts.append(fold(f"All {len(material.groups)} settings", sheet_table(everything, "results of all settings")))
    else:
        words = sheet.title[:1].upper() + sheet.title[1:]
        parts = [paragraph(f"{words}.", class_="note"), sheet_table(sheet, "results")]
    keys = varying_keys([result.settings for result in material.results])
    trials = trials_sheet(material.results, keys, metrics)
    more = len(ranked) - len(metrics)
    told = [f"{counted(more, 'more metric')}: runner results --csv FILE"] if more > 0 else []
    trials = replace(trials, notes=[*tell_flaws(material.results), *told])
    parts.append(fold(f"Every trial ({len(material.results)})", sheet_table(trials, "every trial")))
    return Html("".join(parts))


def draw_results(material: Material) -> Html:
    """Curves by step, then the settings against the metric; empty where there is nothing to draw."""
    drawn = [*_curves(material), *_parameters(material)]
    return element("div", drawn, class_="pictures") if drawn else Html()


def _curves(material: Material) -> Iterator[Html]:
    some = material.ranked()[:MOST_CURVES]
    metrics = [material.goal.metric] if material.goal else []
    for place, metric in enumerate(dict.fromkeys([*metrics, "train/loss"])):
        try:
            figure = plot_curves(Scene(material.name, [metric], in_order(material, some)))
        except ConfigError:
            continue
        if any(len(line.get_xdata()) > 1 for line in figure.axes[0].lines):
            several = any(len(group.done) > 1 for group in some)
            words = f"{metric} by step" + ("; bands are ± the standard deviation over seeds" if several else "")
            if len(some) < len(material.groups):
                words += f"; the best {len(some)} of {len(material.groups)} settings"
            yield picture(figure, words, f"curve{place}")


def _parameters(material: Material) -> Iterator[Html]:
    if material.goal is None:
        return
    metric = material.goal.metric
    groups = [group for group in material.groups if group.values(metric)]
    if len(groups) < 2:
        return
    keys = varying_keys([group.settings for group in groups])
    numeric = [key for key in keys if all(is_coordinate(group.settings.get(key)) for group in groups)]
    for place, key in enumerate(numeric[:MOST_PARAMETERS]):
        some, words = groups, f"{metric} by {key}; dots are trials, bars ± the standard deviation"
        if len({identity(without(group.settings, key)) for group in groups}) > MOST_CURVES:
            some = [group for group in group_by(material.results, [key]) if group.values(metric)]
            words += ", over all other settings"
        yield picture(plot_parameter(Scene(material.name, [metric], some, x=key)), words, f"parameter{place}")
    if len(numeric) < len(keys) or not numeric:
        some = in_order(material, [group for group in material.ranked() if group.values(metric)][:MOST_LINES])
        words = f"{metric} by setting; grey dots are trials, bars ± the standard deviation"
        if len(some) < len(groups):
            words += f"; the best {len(some)} of {len(groups)}"
        is_wide = max(len(material.label(group)) for group in some) > LONG_NAME
        yield picture(plot_settings(Scene(material.name, [metric], some)), words, "settings", is_wide)


def in_order(material: Material, some: list[Setting]) -> list[Setting]:
    """Some of the groups in the order of the table, so that colours go by settings and not by rank."""
    chosen = {id(group) for group in some}
    return [group for group in material.groups if id(group) in chosen]
