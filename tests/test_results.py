"""Results leave no trial out; means and deviations are those of numpy over the trials that are done."""

import csv
import io
import json
import math

import numpy as np
import pytest
from rich.console import Console

from runner.errors import ConfigError
from runner.plot import plot_results
from runner.results import (
    TrialResult,
    group_over,
    group_seeds,
    groups_table,
    metric_names,
    read_results,
    results_table,
    shown_metrics,
    write_csv,
)
from runner.status import read_statuses
from tests.trials import make_trial

TOP1 = "test/linear_top1"


def sweep(gammas=(0.0, 1.0), seeds=(0, 1, 2)) -> list[TrialResult]:
    return [
        TrialResult(
            f"g{gamma}s{seed}",
            {"method.gamma": gamma, "train.seed": seed},
            "done",
            {"train/loss": 2.0 - gamma, TOP1: 0.5 + gamma / 10 + seed**2 / 100},
        )
        for gamma in gammas
        for seed in seeds
    ]


def text_of(table) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


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


def test_one_trial_has_no_deviation():
    (group,) = group_over(sweep(gammas=(0.0,), seeds=(4,)), "seed")
    assert group.spread(TOP1).std is None and group.spread(TOP1).n == 1
    assert "±" not in text_of(groups_table([group], ""))


def test_what_is_not_done_is_named_and_not_counted():
    results = sweep()
    results[1] = TrialResult("g0.0s1", results[1].settings, "failed", {TOP1: 0.01})
    results[2] = TrialResult("g0.0s2", results[2].settings, "pending", {})
    del results[5]
    first, second = group_over(results, "seed")
    assert first.spread(TOP1).n == 1 and first.spread(TOP1).mean == 0.5
    text = text_of(groups_table([first, second], "3 done"))
    assert "g0.0s1 failed, g0.0s2 pending" in text and "1/3" in text and "3 done" in text
    assert second.absent == [2] and "no trial with 2" in text
    document = first.as_json()
    assert document["missing"] == [
        {"trial": "g0.0s1", "state": "failed"},
        {"trial": "g0.0s2", "state": "pending"},
    ]
    assert document["n"] == 1 and document["metrics"][TOP1] == {"mean": 0.5, "std": None, "n": 1}


def test_a_nan_is_shown_and_not_averaged_away():
    results = sweep(gammas=(0.0,))
    results[0].metrics[TOP1] = math.nan
    (group,) = group_over(results, "seed")
    assert math.isnan(group.spread(TOP1).mean) and group.spread(TOP1).n == 3
    assert "nan" in text_of(groups_table([group], ""))


def test_over_a_key_that_no_trial_sets():
    with pytest.raises(
        ConfigError, match=r"--over sed: no trial of the sweep sets it; it sets: method.gamma, train.seed"
    ):
        group_over(sweep(), "sed")
    results = [TrialResult("a", {"train.seed": 1, "data.seed": 2}, "done", {})]
    with pytest.raises(ConfigError, match=r"--over seed: the sweep sets train.seed, data.seed; give one"):
        group_over(results, "seed")


def test_json_has_the_keys_of_the_contract_and_partial_trials_their_last_values(tmp_path):
    done = make_trial(tmp_path, "a", overrides={"train.seed": 0}, result={TOP1: 0.9})
    rows = [
        {"step": 1, "time": 0.0, "attempt": 1, TOP1: 0.1},
        {"step": 2, "time": 0.0, "attempt": 1, "train/loss": 2.0},
    ]
    failed = make_trial(tmp_path, "b", metrics=rows, failure={"cause": "killed", "error": "", "rank": 0})
    results = read_results(read_statuses([done, failed]))
    assert [result.as_json() for result in results] == [
        {
            "trial": "a",
            "overrides": {"train.seed": 0},
            "settings": {"train.seed": 0},
            "state": "done",
            "metrics": {TOP1: 0.9},
        },
        {"trial": "b", "overrides": {}, "settings": {}, "state": "failed", "metrics": {TOP1: 0.1, "train/loss": 2.0}},
    ]


def test_columns_are_what_differs_then_metrics_the_main_one_first():
    results = [
        TrialResult(
            "a",
            {"method.gamma": 0.0, "data.name": "x"},
            "done",
            {"train/loss": 1.0, "test/f1": 0.1, TOP1: 0.25},
        ),
        TrialResult("b", {"method.gamma": 1.0, "data.name": "x"}, "failed", {}),
    ]
    assert metric_names(results) == [TOP1, "test/f1", "train/loss"]
    head, *lines = text_of(results_table(results, "1 done, 1 failed")).splitlines()
    assert head.split() == ["trial", "gamma", "state", TOP1, "test/f1", "train/loss"]
    assert lines[0].split() == ["a", "0", "done", "0.25", "0.1", "1"]
    assert lines[1].split() == ["b", "1", "failed"]


def test_csv_of_trials_and_of_groups(tmp_path):
    results = [*sweep(), TrialResult("bad", {"method.gamma": 1.0, "train.seed": 3}, "failed", {})]
    write_csv(tmp_path / "trials.csv", results)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "trials.csv").read_text())))
    assert len(rows) == 7 and list(rows[0]) == [
        "trial",
        "state",
        "method.gamma",
        "train.seed",
        TOP1,
        "train/loss",
    ]
    assert float(rows[4][TOP1]) == results[4].metrics[TOP1]
    assert rows[6]["state"] == "failed" and rows[6][TOP1] == ""
    write_csv(tmp_path / "groups.csv", results, group_over(results, "seed"))
    rows = list(csv.DictReader(io.StringIO((tmp_path / "groups.csv").read_text())))
    assert [row["done"] for row in rows] == ["3", "3"] and rows[1]["missing"] == "bad:failed"
    assert float(rows[0][f"{TOP1} std"]) == pytest.approx(np.std([0.5, 0.51, 0.54], ddof=1))
    with pytest.raises(ConfigError, match="cannot be written"):
        write_csv(tmp_path / "nowhere" / "x.csv", results)


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_a_plot_is_of_the_kind_its_name_says(tmp_path, suffix):
    path = tmp_path / f"plot.{suffix}"
    plot_results(path, "exp", [], sweep())
    magic = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}
    assert path.read_bytes().startswith(magic[suffix])


def test_plots_of_numbers_of_words_and_of_curves(tmp_path):
    numbers = sweep(gammas=(0.0, 0.5, 1.0))
    words = [TrialResult(r.trial, {**r.settings, "encoder.name": "vit"}, r.state, r.metrics) for r in sweep()]
    plot_results(tmp_path / "numbers.svg", "exp", [], numbers)
    plot_results(tmp_path / "words.svg", "exp", [], [*sweep(), *words])
    metrics = [{"step": step, "time": 0.0, "attempt": 1, "train/loss": 1 / (step + 1)} for step in range(50)]
    rows = read_statuses([make_trial(tmp_path, "a", metrics=metrics), make_trial(tmp_path, "b")])
    plot_results(tmp_path / "curves.svg", "exp", rows, read_results(rows))
    sizes = {path.name: path.stat().st_size for path in tmp_path.glob("*.svg")}
    assert len(sizes) == 3 and min(sizes.values()) > 5000


def test_plots_refuse_in_words(tmp_path):
    with pytest.raises(ConfigError, match=r"--plot .*x\.gif: the suffix must be one of \.png, \.pdf, \.svg"):
        plot_results(tmp_path / "x.gif", "exp", [], sweep())
    rows = read_statuses([make_trial(tmp_path, "b")])
    with pytest.raises(ConfigError, match="no trial of exp has metrics yet"):
        plot_results(tmp_path / "x.png", "exp", rows, read_results(rows))
    assert not list(tmp_path.glob("x.*"))


def test_results_are_json(tmp_path):
    json.dumps([group.as_json() for group in group_over(sweep(), "seed")], allow_nan=False)


def make_config(root, trial, overrides, text, metric):
    """A trial that is done, with a config.yaml as a submission writes it."""
    run = make_trial(root, trial, overrides=overrides, result={TOP1: metric})
    run.config.write_text(text)
    return run


def config_text(steps=30, seed=0, lr="0.001", keep=3, extra=""):
    train = f"train:\n  steps: {steps}\n  seed: {seed}\n  betas:\n  - 0.9\n  - 0.99\n"
    return f"name: exp\noptimizer:\n  name: adamw\n  lr: {lr}\n{train}checkpoint:\n  keep: {keep}\n{extra}"


def test_what_the_sweep_did_not_set_sets_trials_apart_too(tmp_path):
    """A file submitted again with another length in it: two experiments, which no mean may mix."""
    runs = [
        make_config(tmp_path, f"t{steps}{seed}", {"train.seed": seed}, config_text(steps, seed, keep=seed + 1), steps)
        for steps in (30, 60)
        for seed in (0, 1)
    ]
    results = read_results(read_statuses(runs))
    assert results[2].settings == {"train.seed": 0, "train.steps": 60} and results[2].overrides == {"train.seed": 0}
    groups = group_over(results, "seed")
    assert [(group.settings, group.spread(TOP1).mean) for group in groups] == [
        ({"train.steps": 30}, 30),
        ({"train.steps": 60}, 60),
    ]
    assert [group.as_json()["overrides"] for group in groups] == [{}, {}]
    head = text_of(results_table(results, "")).splitlines()[0].split()
    assert head[:4] == ["trial", "seed", "steps", "state"], "how often checkpoints are written is no column"
    assert group_over(results, "steps")[0].settings == {"train.seed": 0}


def test_equal_configs_are_one_setting_whoever_set_them(tmp_path):
    runs = [
        make_config(tmp_path, "a", {"train.seed": 0, "optimizer.lr": 1e-3}, config_text(seed=0), 0.1),
        make_config(tmp_path, "b", {"train.seed": 1}, config_text(seed=1), 0.2),
        make_config(tmp_path, "c", {"train.seed": 2}, config_text(seed=2, steps="30.0"), 0.3),
    ]
    (group,) = group_over(read_results(read_statuses(runs)), "seed")
    assert len(group.trials) == 3 and group.settings["optimizer.lr"] == 1e-3


@pytest.mark.parametrize("damage", ["train: [", b"\xff\xfe", ""], ids=["not YAML", "not UTF-8", "empty"])
def test_a_damaged_config_is_not_averaged_with_others(tmp_path, damage):
    runs = [make_config(tmp_path, f"t{seed}", {"train.seed": seed}, config_text(seed=seed), 0.1) for seed in (0, 1)]
    runs[1].config.write_bytes(damage if isinstance(damage, bytes) else damage.encode())
    assert len(group_over(read_results(read_statuses(runs)), "seed")) == 2


def test_a_table_shows_the_metrics_of_every_data_set(tmp_path):
    metrics = {"train/loss": 1.0, "validation/knn_top1": 0.5, "few/knn_top1": 0.25, "train/beta": 0.9}
    results = read_results(read_statuses([make_trial(tmp_path, "a", result=metrics)]))
    assert shown_metrics(results) == ["validation/knn_top1", "few/knn_top1", "train/loss"]
