"""Groups leave no trial out; means and deviations are those of numpy over the trials that are done."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from runner.errors import ConfigError
from runner.results import TrialResult, group_by, group_over, group_seeds, metric_names
from runner.results.layout import groups_sheet, pivot_sheet, trials_sheet
from runner.results.sheet import Number, Sheet, rank_metrics
from runner.results.terminal import fit
from tests.results.sweeps import TOP1, change, sweep, text_of

KEYS = ["method.gamma"]


def test_spread_is_the_mean_and_the_sample_deviation():
    groups = group_over(sweep(), "seed")
    assert [group.settings for group in groups] == [{"method.gamma": 0.0}, {"method.gamma": 1.0}]
    for group, gamma in zip(groups, (0.0, 1.0), strict=True):
        values = [0.5 + gamma / 10 + seed**2 / 100 for seed in (0, 1, 2)]
        spread = group.spread(TOP1)
        assert spread.n == 3
        assert spread.mean == pytest.approx(np.mean(values))
        assert spread.std == pytest.approx(np.std(values, ddof=1))
    assert group_seeds(sweep()) == groups == group_over(sweep(), "train.seed")


@pytest.mark.parametrize("kind", ["std", "ci", "sem"])
def test_one_trial_has_no_spread(kind):
    (group,) = group_over(sweep(gammas=(0.0,), seeds=(4,)), "seed")
    spread = group.spread(TOP1)
    assert (spread.n, spread.std, spread.sem, spread.half_width, spread.interval) == (1, None, None, None, None)
    text = text_of(groups_sheet([group], [], [TOP1], kind))
    assert "±" not in text and "one trial each" in text


def test_what_is_not_done_is_named_and_not_counted():
    results = sweep()
    change(results, "g0.0s1", "failed", {TOP1: 0.01})
    change(results, "g0.0s2", "pending")
    del results[5]
    first, second = group_over(results, "seed")
    assert first.spread(TOP1).n == 1 and first.spread(TOP1).mean == 0.5
    text = text_of(groups_sheet([first, second], KEYS, [TOP1]))
    assert "seed 1: g0.0s1 failed, seed 2: g0.0s2" in text and "1/3" in text
    assert second.absent == [2] and "no seed 2" in text and "2/3" in text
    document = first.as_json()
    assert document["missing"] == [
        {"trial": "g0.0s1", "state": "failed", "value": 1},
        {"trial": "g0.0s2", "state": "pending", "value": 2},
    ]
    assert (document["n"], document["expected"]) == (1, 3)
    assert document["metrics"][TOP1] == {"mean": 0.5, "std": None, "sem": None, "ci95": None, "n": 1}


def test_a_nan_is_shown_and_not_averaged_away():
    results = sweep(gammas=(0.0,))
    results[0].metrics[TOP1] = math.nan
    (group,) = group_over(results, "seed")
    assert math.isnan(group.spread(TOP1).mean) and group.spread(TOP1).n == 3
    assert "nan ± nan" in text_of(groups_sheet([group], [], [TOP1]))


def test_over_a_key_that_no_trial_sets():
    with pytest.raises(ConfigError, match=r'--over sed: no trial of the sweep sets it; did you mean "seed"\?'):
        group_over(sweep(), "sed")
    with pytest.raises(ConfigError, match=r"--over x: no trial of the sweep sets it; it sets: method.gamma, train.s"):
        group_over(sweep(), "x")
    results = [TrialResult("a", {"train.seed": 1, "data.seed": 2}, "done", {})]
    with pytest.raises(ConfigError, match=r"--over seed: the sweep sets train.seed, data.seed; give one"):
        group_over(results, "seed")


def test_of_several_seeds_a_report_groups_over_that_of_the_training():
    """Else it would show each run by itself, and the luckiest as the best."""

    def drawn(train: int, data: int, gamma: float = 0.0) -> TrialResult:
        settings = {"method.gamma": gamma, "train.seed": train, "data.seed": data}
        return TrialResult(f"{gamma}{train}{data}", settings, "done", {TOP1: 0.5})

    def sizes(results: list[TrialResult]) -> list[tuple[str | None, int]]:
        return [(group.over, len(group.trials)) for group in group_seeds(results)]

    both = [drawn(train, data) for train in (0, 1, 2) for data in (0, 1)]
    assert sizes(both) == [("train.seed", 3), ("train.seed", 3)]
    assert sizes([drawn(seed, 0) for seed in (0, 1, 2)]) == [("train.seed", 3)]
    assert sizes([drawn(0, seed) for seed in (0, 1, 2)]) == [("data.seed", 3)]
    assert sizes([drawn(0, 0, gamma) for gamma in (0.0, 1.0)]) == [("train.seed", 1), ("train.seed", 1)]
    settings = [{"data.seed": seed, "views.seed": seed} for seed in (0, 1)]
    assert sizes([TrialResult(str(each), each, "done", {}) for each in settings]) == [(None, 1), (None, 1)]


def test_lines_stand_in_the_order_of_their_settings():
    results = sweep(gammas=(10.0, 0.5, 2.0))
    assert [group.settings["method.gamma"] for group in group_over(results[::-1], "seed")] == [0.5, 2.0, 10.0]
    rows = trials_sheet(results, ["method.gamma", "train.seed"], []).rows
    assert [row[1:3] for row in rows][:4] == [["0.5", "0"], ["0.5", "1"], ["0.5", "2"], ["2", "0"]]


def test_columns_are_settings_then_metrics_the_main_one_first():
    results = [
        TrialResult("a", {"method.gamma": 0.0}, "done", {"train/loss": 1.0, "test/f1": 0.1, TOP1: 0.25}),
        TrialResult("b", {"method.gamma": 1.0}, "failed", {}),
    ]
    assert metric_names(results) == [TOP1, "test/f1", "train/loss"]
    head, *lines = text_of(trials_sheet(results, KEYS, metric_names(results))).splitlines()
    assert head.split() == ["trial", "gamma", "state", TOP1, "test/f1", "train/loss"]
    assert lines[0].split() == ["a", "0", "done", "0.25", "0.1", "1"]
    assert lines[1].split() == ["b", "1", "failed"]


def test_the_best_of_each_metric_is_marked_among_what_is_done():
    results = sweep()
    change(results, "g1.0s2", "running", {TOP1: 0.99, "train/loss": 0.0})
    rows = trials_sheet(results, KEYS, [TOP1, "train/loss"]).rows
    marked = [(row[0], column) for row in rows for column in (3, 4) if isinstance(row[column], Number)]
    best = [(row, column) for row, column in marked if next(r for r in rows if r[0] == row)[column].is_best]
    assert best == [("g1.0s1", 3)], "a loss of other gammas is another loss"
    alike = [replace(each, settings={"train.seed": place}) for place, each in enumerate(results)]
    rows = trials_sheet(alike, [], [TOP1, "train/loss"]).rows
    assert [row[0] for row in rows if row[3].is_best] == ["g1.0s0", "g1.0s1"]


def test_the_title_says_how_many_are_done():
    results = sweep()
    (title,) = {groups_sheet(group_over(results, "seed"), KEYS, [TOP1]).title}
    assert title == "mean ± standard deviation over seed"
    for trial in ("g0.0s1", "g0.0s2", "g1.0s1", "g1.0s2"):
        change(results, trial, "running")
    assert groups_sheet(group_over(results, "seed"), KEYS, [TOP1]).title == "at most one trial done each, over seed"
    for trial in ("g0.0s0", "g1.0s0"):
        change(results, trial, "running")
    assert groups_sheet(group_over(results, "seed"), KEYS, [TOP1]).title == "no trial is done"


def test_a_pivot_has_the_means_of_numpy_and_says_where_trials_are_missing():
    results = [
        TrialResult(f"{gamma}{lr}{seed}", {"g": gamma, "lr": lr, "seed": seed}, "done", {"m": gamma + 10 * lr + seed})
        for gamma in (2, 1)
        for lr in (0.1, 0.01)
        for seed in (0, 1, 2)
        if (gamma, lr, seed) != (2, 0.01, 2)
    ]
    change(results, "10.10", "failed")
    change(results, "20.010", "running")
    change(results, "20.011", "cancelled")
    sheet = pivot_sheet(group_by(results, ["g", "lr"]), ("g", "lr"), "m")
    assert sheet.heads == ["g", "lr 0.01", "lr 0.1"] and [row[0] for row in sheet.rows] == ["1", "2"]
    full, part = sheet.rows[0][1], sheet.rows[0][2]
    assert (full.value, full.half, full.note) == (
        pytest.approx(np.mean([1.1, 2.1, 3.1])),
        pytest.approx(np.std([1.1, 2.1, 3.1], ddof=1)),
        "",
    )
    assert (part.value, part.note) == (pytest.approx(3.5), "n=2")
    assert sheet.rows[1][1] == "(running, cancelled)", "a cell without a value says why"
    assert sheet.title == "m: mean ± standard deviation over seed" and "10.10 failed (g 1, lr 0.1)" in sheet.notes[0]


@pytest.mark.parametrize(
    ("mean", "half", "words"),
    [
        (0.83749, 0.00278, ("0.8375", "0.0028")),
        (0.98, 0.0, ("0.98", "0")),
        (5.2149, 0.0504, ("5.215", "0.050")),
        (123.4, 17.3, ("123", "17")),
        (0.0, 0.0096, ("0.0000", "0.0096")),
        (0.5, 0.0999, ("0.500", "0.100")),
        (3e7, 2e6, ("3e+07", "2e+06")),
        (math.nan, math.nan, ("nan", "nan")),
        (0.25, None, ("0.25", "")),
    ],
)
def test_the_spread_says_how_many_digits_a_mean_has(mean, half, words):
    assert Number(mean, half).words() == words


RETRIEVAL = [
    f"test/retrieval_{way}_{name}"
    for way in ("source_to_binary", "binary_to_source", "comment_to_binary")
    for name in ("mrr", "map", "recall_at_1", "recall_at_5", "recall_at_10", "queries")
]
MANY = [*RETRIEVAL, "test/name_recovery_subtoken_f1", "test/name_recovery_coverage", "test/summarization_bleu"]


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_many_metrics_never_make_a_table_wider_than_the_terminal(width):
    results = [
        TrialResult(f"t{seed}", {"train.seed": seed}, "done", {"train/loss": 1.0, "train/norm": 1.0}) for seed in (0, 1)
    ]
    for result in results:
        for place, name in enumerate(MANY):
            result.metrics[name] = 400.0 if name.endswith("queries") else place / 7 + result.settings["train.seed"] / 9
    ranked = rank_metrics(results)
    heads = [name.rpartition("_")[0] for name in ranked[:5]]
    assert len(set(heads)) == 5, "one of each family before a second of any"
    assert ranked.index("train/loss") == len(ranked) - 1 and "train/norm" not in ranked
    assert all(name.endswith("queries") for name in ranked[-4:-1]), "what is the same everywhere tells nothing"
    sheet = fit(trials_sheet(results, ["train.seed"], metric_names(results)), ranked, width)
    assert max(map(len, text_of(sheet).splitlines())) <= width
    shown = [head for head in sheet.heads if "/" in head]
    assert shown[0] == ranked[0] and set(shown) == set(ranked[: len(shown)])


def test_settings_wider_than_a_terminal_are_not_cut():
    results = [TrialResult(f"t{n}", {"data.root": f"{n}" * 70, "train.seed": n}, "done", {TOP1: 0.5}) for n in (1, 2)]
    text = text_of(trials_sheet(results, ["data.root", "train.seed"], [TOP1]))
    assert "1" * 70 in text and "2" * 70 in text and text.count("0.5") == 2


def test_a_pivot_has_a_place_for_trials_that_lack_a_key():
    results = [
        TrialResult("a", {"g": 1, "lr": 0.1}, "done", {"m": 1.0}),
        TrialResult("b", {"g": 1}, "done", {"m": 2.0}),
    ]
    sheet = pivot_sheet(group_by(results, ["g", "lr"]), ("g", "lr"), "m")
    assert sorted(cell.value for cell in sheet.rows[0][1:]) == [1.0, 2.0]


def test_no_text_of_a_file_reaches_the_terminal_as_a_command():
    text = text_of(Sheet(["a\x1b[2J", "b"], [["c\x1b]0;d\x07", "e\rf"]], ["g\x9b"], "h\x00"))
    assert all(line.isprintable() for line in text.splitlines()) and r"c\x1b]0;d\x07" in text


def test_results_are_json():
    json.dumps([group.as_json() for group in group_over(sweep(), "seed")], allow_nan=False)


def test_a_mean_of_fewer_than_are_done_says_so_and_is_not_the_best():
    """A metric may be left out where it is not a number: 0.9 is of one seed of three."""
    results = sweep()
    for seed in (1, 2):
        change(results, f"g1.0s{seed}", "done", {"train/loss": 1.0})
    few, many = (row for row in groups_sheet(group_over(results, "seed"), ["method.gamma"], [TOP1]).rows[::-1])
    assert few[1] == many[1] == "3/3"
    assert (few[2].note, few[2].is_best) == ("n=1", False) and (many[2].note, many[2].is_best) == ("", False)
