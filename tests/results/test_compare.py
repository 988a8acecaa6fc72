"""Two settings are compared over trials that are equal but for them; whoever has no partner is named."""

import pytest
from scipy import stats

from runner.errors import ConfigError
from runner.results import TrialResult
from runner.results.compare import pair_up, parse_comparison
from runner.results.layout import pairs_sheet
from runner.results.trials import Selection
from runner.results.view import Query, make_view
from tests.results.sweeps import TOP1, change, sweep, text_of


def grid() -> list[TrialResult]:
    return [
        TrialResult(f"{g}{w}{s}", {"gamma": g, "width": w, "seed": s}, "done", {TOP1: 0.5 + w / 100 + s / 7 + g * s})
        for g in (0, 1, 2)
        for w in (32, 64)
        for s in (0, 1, 2)
    ]


def test_pairs_are_of_trials_that_are_equal_but_for_the_key():
    (pairs,) = pair_up(grid()[::-1], "gamma", [0, 1])
    assert [(a.trial, b.trial) for a, b in pairs.pairs] == [
        (f"0{w}{s}", f"1{w}{s}") for w in (32, 64) for s in (0, 1, 2)
    ]
    first, second = ([pair[side].metrics[TOP1] for pair in pairs.pairs] for side in (0, 1))
    expected = stats.ttest_rel(second, first)
    compared = pairs.compare(TOP1)
    assert compared.p_value == pytest.approx(expected.pvalue) and compared.difference.n == 6
    assert compared.difference.interval == pytest.approx(tuple(expected.confidence_interval(0.95)))
    (swapped,) = pair_up(grid(), "gamma", [1, 0])
    assert swapped.compare(TOP1).difference.mean == pytest.approx(-compared.difference.mean)


def test_methods_are_compared_whatever_options_are_theirs_alone():
    """gamma is scl's, temperature is simclr's; what both have, as the width, must be equal."""
    own = {"scl": {"method.gamma": 1}, "simclr": {"method.temperature": 0.5}}
    results = [
        TrialResult(
            f"{name}{width}{seed}",
            {"method.name": name, **own[name], "method.width": width, "train.seed": seed},
            "done",
            {TOP1: 0.5 + seed / 7 + (name == "scl"), "train/loss": 1.0},
        )
        for name in own
        for width in (32, 64)
        for seed in (0, 1, 2)
    ]
    (pairs,) = pair_up(results, "method.name", ["simclr", "scl"])
    assert len(pairs.pairs) == 6 and pairs.unpaired == []
    assert all(a.trial.removeprefix("simclr") == b.trial.removeprefix("scl") for a, b in pairs.pairs)
    assert pairs.compare(TOP1).difference.mean == pytest.approx(1)
    over = pair_up(results, "method.name", ["simclr", "scl"], over="train.seed")
    assert [(each.settings, len(each.pairs)) for each in over] == [({"method.width": 32}, 3), ({"method.width": 64}, 3)]
    results.append(TrialResult("more", {**results[0].settings, "method.gamma": 2}, "done", {TOP1: 0.0}))
    (pairs,) = pair_up(results, "method.name", ["simclr", "scl"])
    told = "width 32, seed 0: 2 of method scl differ in gamma: choose one by --where"
    assert len(pairs.pairs) == 5 and pairs.unpaired == [told]


def test_training_losses_of_two_methods_are_not_compared_unless_asked_for():
    results = [
        TrialResult(f"{name}{seed}", {"method.name": name, "train.seed": seed}, "done", {TOP1: 0.5, "train/loss": 1.0})
        for name in ("scl", "simclr")
        for seed in (0, 1, 2)
    ]
    shown = []
    for metrics in ([], ["train/loss", TOP1]):
        query = Query(compare="method.name=simclr,scl", metrics=metrics)
        selection = Selection(results, len(results), {"method.name": "method.name"})
        shown.append(text_of(make_view(selection, query, []).sheet(100)))
    assert TOP1 in shown[0] and "train/loss" not in shown[0] and "1 more metric" in shown[0]
    assert TOP1 in shown[1] and "train/loss" in shown[1]


def test_over_seeds_each_other_setting_is_compared_by_itself():
    compared = pair_up(grid(), "gamma", [0, 2], over="seed")
    assert [(pairs.settings, len(pairs.pairs)) for pairs in compared] == [({"width": 32}, 3), ({"width": 64}, 3)]
    text = text_of(pairs_sheet(compared, [TOP1]))
    assert "gamma 2 minus gamma 0" in text and "2.0 ± 5.0" in text and "3/3" in text and "not corrected" in text


def test_whoever_has_no_partner_is_named():
    results = [each for each in grid() if each.trial not in ("1321", "2320")]
    change(results, "0322", "failed", {TOP1: 1.0})
    change(results, "1640", "pending")
    (pairs,) = pair_up(results, "gamma", [0, 1])
    assert [(a.trial, b.trial) for a, b in pairs.pairs] == [("0320", "1320"), ("0641", "1641"), ("0642", "1642")]
    assert pairs.unpaired == [
        "width 32, seed 1: no gamma 1",
        "width 32, seed 2: 0322 failed",
        "width 64, seed 0: 1640 pending",
    ]
    document = pairs.as_json()
    assert document["unpaired"] == pairs.unpaired and document["metrics"][TOP1]["n"] == 3
    text = text_of(pairs_sheet([pairs], [TOP1]))
    assert "3/6" in text and "no pair for width 32, seed 1: no gamma 1; width 32, seed 2: 0322 failed" in text


def test_no_pair_at_all_is_shown_as_such():
    results = sweep(seeds=(0,))
    change(results, "g1.0s0", "failed")
    (pairs,) = pair_up(results, "method.gamma", [0.0, 1.0])
    assert pairs.compare(TOP1) is None and "0/1" in text_of(pairs_sheet([pairs], [TOP1]))


@pytest.mark.parametrize("text", ["gamma", "gamma=", "gamma=1", "gamma=1,2,3", "gamma=1,1.0", "=1,2"])
def test_a_comparison_is_of_two_values(text):
    with pytest.raises(ConfigError, match=r"--compare .*: should be KEY=A,B with two values"):
        parse_comparison(text)


def test_values_are_typed_and_must_be_there():
    assert parse_comparison("method.name=scl,byol") == ("method.name", ["scl", "byol"])
    assert parse_comparison("w=[1, 2],null") == ("w", [[1, 2], None])
    with pytest.raises(ConfigError, match="--compare gamma: no trial has 3; there is 0, 1, 2"):
        pair_up(grid(), "gamma", [0, 3])


def test_a_trial_without_the_key_is_no_trial_with_null():
    """Such as one whose encoder has no such option, beside one whose option is null."""
    settings = [{"encoder": "vit"}, {"encoder": "resnet", "clip": None}, {"encoder": "resnet", "clip": 0.5}]
    results = [TrialResult(f"t{place}", each, "done", {TOP1: place / 8}) for place, each in enumerate(settings)]
    (pairs,) = pair_up(results, *parse_comparison("clip=null,0.5"))
    assert [(a.trial, b.trial) for a, b in pairs.pairs] == [("t1", "t2")] and not pairs.unpaired
