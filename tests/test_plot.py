"""Pictures show what the table says: drawn values are read back from the figure."""

import numpy as np
import pytest

from runner.errors import ConfigError
from runner.plot import KINDS, plot_results
from runner.plot.curves import plot_curves
from runner.plot.parameter import is_log_spaced, plot_parameter
from runner.plot.scene import Scene
from runner.results import TrialResult, group_over, group_seeds, metric_names, read_results
from runner.status import read_statuses
from tests.results.sweeps import TOP1, change, sweep
from tests.trials import make_trial


def scene(results, metric=TOP1, **options) -> Scene:
    return Scene("exp", [metric], group_seeds(results), **options)


def trials_with_curves(root) -> list[TrialResult]:
    """Three seeds of one setting, 20, 20 and 12 points long; a fourth failed after 5."""
    runs = []
    for seed, points in enumerate((20, 20, 12, 5)):
        rows = [
            {"step": step, "time": 0.0, "attempt": 1, "train/loss": 1 / step + seed, "train/norm": 1.0}
            for step in range(10, 10 * points + 1, 10)
        ]
        end = {"failure": {"cause": "killed", "error": ""}} if seed == 3 else {"result": {"test/f1": 1.0}}
        runs.append(make_trial(root, f"t{seed}", overrides={"train.seed": seed}, metrics=rows, **end))
    return read_results(read_statuses(runs))


def lines_of(figure) -> dict[str, tuple[list[float], list[float]]]:
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in figure.axes[0].lines}


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_a_plot_is_of_the_kind_its_name_says(tmp_path, suffix):
    path = tmp_path / f"plot.{suffix}"
    plot_results(path, "exp", sweep())
    magic = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}
    assert path.read_bytes().startswith(magic[suffix])


def test_a_band_is_over_the_steps_that_all_trials_have(tmp_path):
    results = trials_with_curves(tmp_path)
    figure = plot_curves(Scene("exp", metric_names(results), group_over(results, "seed")))
    axes = figure.axes[0]
    assert axes.get_ylabel() == "train/loss", "what was logged at several steps, though it is not the main metric"
    steps, means = lines_of(figure)["n=3/4"]
    assert steps == list(range(10, 121, 10)) and means == pytest.approx([1 / step + 1 for step in steps])
    band = axes.collections[0].get_paths()[0].vertices
    deviation = np.std([0, 1, 2], ddof=1)
    assert band[:, 1].min() == pytest.approx(1 / 120 + 1 - deviation)
    assert band[:, 1].max() == pytest.approx(1 / 10 + 1 + deviation)
    assert "failed" in lines_of(figure)
    dotted = [line for line in axes.lines if line.get_linestyle() == ":" and len(line.get_xdata())]
    assert [list(line.get_xdata()) for line in dotted] == [[10, 20, 30, 40, 50]], "shown, and not in the mean"


def test_curves_of_what_is_not_done_yet(tmp_path):
    rows = [{"step": step, "time": 0.0, "attempt": 1, "train/loss": 1.0} for step in range(3)]
    results = read_results(read_statuses([make_trial(tmp_path, "a", metrics=rows), make_trial(tmp_path, "b")]))
    plot_results(tmp_path / "x.svg", "exp", results)
    assert (tmp_path / "x.svg").stat().st_size > 5000


def test_a_parameter_is_drawn_with_its_spread_and_every_trial():
    results = sweep(gammas=(0.0, 0.5, 1.0))
    change(results, "g0.5s1", "failed", {TOP1: 0.0})
    figure = plot_parameter(scene(results, spread="ci"))
    (drawn,) = figure.axes[0].containers
    xs, means = drawn.lines[0].get_data()
    groups = group_seeds(results)
    spreads = [group.spread(TOP1) for group in groups]
    assert list(xs) == [0.0, 0.5, 1.0] and list(means) == [spread.mean for spread in spreads]
    ends = [segment[:, 1].tolist() for segment in drawn.lines[2][0].get_segments()]
    assert ends == [pytest.approx(spread.interval) for spread in spreads]
    dots = [y for line in figure.axes[0].lines if line.get_marker() == "." for y in line.get_ydata()]
    assert sorted(dots) == sorted(value for group in groups for value in group.values(TOP1)) and len(dots) == 8


def test_other_settings_are_series_that_do_not_hide_each_other():
    results = [
        TrialResult(f"{lr}{gamma}{seed}", {"lr": lr, "gamma": gamma, "seed": seed}, "done", {TOP1: lr + gamma + seed})
        for lr in (1e-4, 1e-3, 1e-2)
        for gamma in (0, 1)
        for seed in (0, 1)
    ]
    figure = plot_parameter(scene(results, x="lr"))
    axes = figure.axes[0]
    assert axes.get_xscale() == "log" and axes.get_legend_handles_labels()[1] == ["gamma 0", "gamma 1"]
    first, second = (list(container.lines[0].get_xdata()) for container in axes.containers)
    assert all(a < lr < b for a, lr, b in zip(first, (1e-4, 1e-3, 1e-2), second, strict=True))
    assert second == pytest.approx([1e-4, 1e-3, 1e-2], rel=0.1)
    with pytest.raises(ConfigError, match=r"--kind parameter: --x KEY says which .* differ in lr, gamma"):
        plot_parameter(scene(results))


def test_words_stand_side_by_side_and_zero_beside_powers_of_ten():
    words = [TrialResult(name, {"name": name}, "done", {TOP1: 0.5}) for name in ("scl", "byol", "simclr")]
    axes = plot_parameter(scene(words, x="name")).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["scl", "byol", "simclr"], "as they come"
    powers = [TrialResult(f"{g}", {"g": g}, "done", {TOP1: 0.5}) for g in (0, 1e-3, 1e-2, 1e-1)]
    assert plot_parameter(scene(powers)).axes[0].get_xscale() == "symlog"


@pytest.mark.parametrize(
    ("values", "logarithmic"),
    [
        ([1e-4, 1e-3, 1e-2], True),
        ([1e-4, 1e-2], True),
        ([0.1, 0.3, 1, 3, 10], True),
        ([16, 32, 64, 128, 256], True),
        ([0.1, 0.2, 0.5], False),
        (list(range(10, 101, 10)), False),
        ([1, 2, 3], False),
        ([0.0, 1.0], False),
        ([-1, 1, 10], False),
        ([5.0], False),
    ],
)
def test_an_axis_is_logarithmic_where_the_values_are(values, logarithmic):
    assert is_log_spaced(values) == logarithmic


def test_the_kind_is_what_fits_unless_one_is_named(tmp_path):
    numbers = sweep(gammas=(0.0, 0.5, 1.0))
    words = [TrialResult(r.trial, {**r.settings, "encoder.name": "vit"}, r.state, r.metrics) for r in sweep()]
    assert scene(numbers).fitting_kind() == "parameter"
    assert scene([*sweep(), *words]).fitting_kind() == "settings"
    assert scene(sweep(gammas=(1.0,))).fitting_kind() == "curves"
    for kind in KINDS.keys() - {"curves", "search"}:
        plot_results(tmp_path / f"{kind}.svg", "exp", numbers, kind=kind, metric="train/loss")
        assert (tmp_path / f"{kind}.svg").stat().st_size > 5000


def test_plots_refuse_in_words(tmp_path):
    with pytest.raises(ConfigError, match=r"x\.gif: the suffix must be one of \.png, \.pdf, \.svg"):
        plot_results(tmp_path / "x.gif", "exp", sweep())
    with pytest.raises(ConfigError, match='--kind curve: no such picture; did you mean "curves"'):
        plot_results(tmp_path / "x.png", "exp", sweep(), kind="curve")
    with pytest.raises(ConfigError, match="--metric liner_top1: no trial has such a metric; did you mean"):
        plot_results(tmp_path / "x.png", "exp", sweep(), metric="liner_top1")
    with pytest.raises(ConfigError, match="no trial of exp has logged test/linear_top1 yet"):
        plot_results(tmp_path / "x.png", "exp", sweep(), kind="curves")
    with pytest.raises(ConfigError, match="no trial of exp has metrics yet"):
        plot_results(tmp_path / "x.png", "exp", read_results(read_statuses([make_trial(tmp_path, "b")])))
    over_seeds = group_over(sweep(), "train.seed")
    with pytest.raises(ConfigError, match=r"--x train\.seed: is what --over groups over"):
        plot_results(tmp_path / "x.png", "exp", sweep(), over_seeds, kind="parameter", x="train.seed")
    assert not list(tmp_path.glob("x.*"))


def test_the_seed_may_be_the_axis(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setitem(KINDS, "parameter", lambda each: drawn.append(each) or plot_parameter(each))
    plot_results(tmp_path / "x.svg", "exp", sweep(), kind="parameter", x="train.seed", metric=TOP1)
    (each,) = drawn
    assert sorted(group.settings["train.seed"] for group in each.groups) == [0, 0, 1, 1, 2, 2]
