"""The best is chosen among what is done, by a direction that the metric's name or the user gives."""

import math

import pytest

from runner.errors import ConfigError
from runner.results import TrialResult, group_over
from runner.results.best import best_group, best_trial, higher_is_better, parse_goal
from tests.results.sweeps import TOP1, change, sweep

NAMES = [TOP1, "validation/linear_top1", "train/loss"]


def test_direction_is_told_by_the_name_or_by_the_user():
    lower = ["train/loss", "test/reconstruction_error", "test/perplexity", "test/loss_2", "seconds"]
    higher = [TOP1, "test/retrieval_mrr", "test/lossless_share", "test/errorless"]
    assert not any(map(higher_is_better, lower)) and all(map(higher_is_better, higher))
    assert parse_goal("train/loss", NAMES).higher is False
    assert parse_goal("loss:max", NAMES).higher is True
    assert parse_goal(f"{TOP1}:min", NAMES).higher is False


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("test/liner_top1", 'no trial has such a metric; did you mean "test/linear_top1"'),
        ("linear_top1", "stands for test/linear_top1, validation/linear_top1; give one"),
        ("loss:best", "after the colon comes min or max"),
    ],
)
def test_a_goal_that_is_none_is_refused_in_words(text, words):
    with pytest.raises(ConfigError, match=f"--best .*: {words}"):
        parse_goal(text, NAMES)


def test_the_best_trial_is_one_that_is_done():
    results = sweep()
    goal = parse_goal(TOP1, NAMES)
    assert results[best_trial(results, goal).place].trial == "g1.0s2"
    assert results[best_trial(results, parse_goal(f"{TOP1}:min", NAMES)).place].trial == "g0.0s0"
    change(results, "g1.0s2", "running", {TOP1: 0.99})
    change(results, "g1.0s1", "done", {TOP1: math.nan})
    choice = best_trial(results, goal)
    assert results[choice.place].trial == "g1.0s0" and choice.is_whole and choice.among == 4


def test_unless_nothing_is_done():
    results = [TrialResult(name, {}, "running", {TOP1: value}) for name, value in (("a", 0.1), ("b", 0.3))]
    choice = best_trial([*results, TrialResult("c", {}, "pending", {})], parse_goal(TOP1, NAMES))
    assert choice.place == 1 and not choice.is_whole
    assert best_trial([TrialResult("c", {}, "done", {})], parse_goal(TOP1, NAMES)) is None


def test_one_lucky_seed_is_not_the_best_group():
    results = sweep()
    change(results, "g1.0s0", "failed", {TOP1: 0.0})
    change(results, "g1.0s1", "pending")
    groups = group_over(results, "seed")
    choice = best_group(groups, parse_goal(TOP1, NAMES))
    assert groups[1].spread(TOP1).mean > groups[0].spread(TOP1).mean
    assert choice.place == 0 and choice.is_whole
    change(results, "g0.0s0", "failed")
    change(results, "g0.0s1", "failed")
    choice = best_group(group_over(results, "seed"), parse_goal(TOP1, NAMES))
    assert choice.place == 1 and not choice.is_whole, "now both have one"
