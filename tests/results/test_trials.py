"""Trials are told apart by all settings in which they differ, and chosen by conditions on any of them."""

import pytest

from runner.conditions import parse_condition
from runner.errors import ConfigError
from runner.results import group_over, read_results, select
from runner.results.layout import trials_sheet
from runner.results.sheet import rank_metrics
from runner.results.trials import tell_flaws
from runner.rundir import find_trials
from runner.status import read_statuses
from runner.tables import short_names, varying_keys
from runner.watch import status_table
from tests.results.sweeps import TOP1
from tests.trials import make_trial


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
    columns = varying_keys([result.settings for result in results])
    assert columns == ["train.seed", "train.steps"], "how often checkpoints are written is no column"
    assert group_over(results, "steps")[0].settings == {"train.seed": 0}


def test_equal_configs_are_one_setting_whoever_set_them(tmp_path):
    runs = [
        make_config(tmp_path, "a", {"train.seed": 0, "optimizer.lr": 1e-3}, config_text(seed=0), 0.1),
        make_config(tmp_path, "b", {"train.seed": 1}, config_text(seed=1), 0.2),
        make_config(tmp_path, "c", {"train.seed": 2}, config_text(seed=2, steps="30.0"), 0.3),
    ]
    (group,) = group_over(read_results(read_statuses(runs)), "seed")
    assert len(group.trials) == 3 and group.settings["optimizer.lr"] == 1e-3


@pytest.mark.parametrize(
    ("damage", "flaw"),
    [
        (lambda text: b"train: [\n", "config.yaml is damaged: train is no YAML"),
        (lambda text: b"\xff\xfe", "config.yaml is damaged: it is no text"),
        (lambda text: bytes(len(text)), "config.yaml is damaged: it has NUL bytes"),
        (lambda text: b"", "config.yaml is empty"),
        (lambda text: text[:40], "config.yaml is cut short"),
        (lambda text: text[: text.index(b"train:")], "config.yaml is cut short"),
        (None, "config.yaml is missing; `runner submit` of its experiment writes it again"),
    ],
    ids=["not YAML", "not UTF-8", "NUL", "empty", "cut", "cut between lines", "missing"],
)
def test_a_damaged_config_sets_no_trials_apart_and_is_in_no_mean(tmp_path, damage, flaw):
    overrides = [{"optimizer.lr": lr, "train.seed": seed} for lr in (0.1, 0.2) for seed in (0, 1)]
    for place, own in enumerate(overrides):
        text = config_text(seed=own["train.seed"], lr=str(own["optimizer.lr"]))
        run = make_config(tmp_path, f"t{place}", own, text, place)
    if damage is None:
        run.config.unlink()
    else:
        run.config.write_bytes(damage(text.encode()))
    runs = find_trials(tmp_path / "exp")
    results = read_results(read_statuses(runs))
    assert [list(result.settings) for result in results] == [["optimizer.lr", "train.seed"]] * 4
    assert tell_flaws(results) == [f"t3: {flaw}"]
    groups = group_over(results, "seed")
    assert [group.values(TOP1) for group in groups] == [[0, 1], [2]]
    state = "unknown" if damage is None else "done, with a damaged config"
    assert groups[1].missing_words() == [f"seed 1: t3 {state}"] and groups[1].expected == 2


def test_a_short_name_is_enough_among_all_keys_of_the_config(tmp_path):
    """Blur alone varies, and jitter has a probability, too."""
    views = "views:\n  jitter:\n    probability: 0.8\n  blur:\n    probability: {}\n"
    runs = [make_config(tmp_path, f"t{p}", {}, config_text(extra=views.format(p)), p) for p in (0, 1)]
    results = read_results(read_statuses(runs))
    assert trials_sheet(results, ["views.blur.probability"], [TOP1]).heads[1] == "blur.probability"
    assert status_table(read_statuses(runs)).columns[1].header == "blur.probability"
    assert short_names(["method.name", "method.gamma", "a.b.c", "d.b.c"]) == ["method", "gamma", "a.b.c", "d.b.c"]


def test_a_table_shows_the_metrics_of_every_data_set(tmp_path):
    metrics = {"train/loss": 1.0, "validation/knn_top1": 0.5, "few/knn_top1": 0.25, "train/beta": 0.9}
    results = read_results(read_statuses([make_trial(tmp_path, "a", result=metrics)]))
    assert rank_metrics(results) == ["validation/knn_top1", "few/knn_top1", "train/loss"]


@pytest.fixture
def folder(tmp_path):
    """Seeds 0 and 1 of two lengths; one trial of the longer ones failed."""
    for steps in (30, 60):
        for seed in (0, 1):
            run = make_config(tmp_path, f"t{steps}{seed}", {"train.seed": seed}, config_text(steps, seed), seed)
            if (steps, seed) == (60, 1):
                run.result.unlink()
                run.failure.write_text('{"cause": "user code", "error": "no"}')
    return tmp_path / "exp"


@pytest.mark.parametrize(
    ("conditions", "trials"),
    [
        ([], "t300 t301 t600 t601"),
        (["train.seed=0"], "t300 t600"),
        (["seed=0.0", "steps!=30"], "t600"),
        (["seed==0,1", "steps > 30"], "t600 t601"),
        (["steps>=60", "state=done"], "t600"),
        (["state!=done,running"], "t601"),
        (["optimizer=adamw"], "t300 t301 t600 t601"),
        (["lr<=1e-3"], "t300 t301 t600 t601"),
        (["lr<1e-3"], ""),
        (["optimizer.name=1"], ""),
        (["betas=[0.9, 0.99]"], "t300 t301 t600 t601"),
        (["betas!=[0.9, 0.99]"], ""),
        (["optimizer.name>1"], ""),
        (["trial=t301,t600"], "t301 t600"),
        (["keep=3"], "t300 t301 t600 t601"),
    ],
)
def test_conditions_are_typed_and_on_every_setting(folder, conditions, trials):
    selection = select([folder], list(map(parse_condition, conditions)))
    assert " ".join(result.trial for result in selection.results) == trials and selection.count == 4


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("sead=1", r'--where sead: no trial of the sweep sets it; did you mean "seed"\?'),
        ("seed", "--where seed: must be KEY=VALUE"),
        ("seed=", "--where seed=: has no value"),
        ("seed>x", "--where seed>x: > needs one number"),
        ("seed=[1", "--where seed=\\[1: not YAML"),
    ],
)
def test_a_condition_that_cannot_be_met_is_refused_in_words(folder, condition, words):
    with pytest.raises(ConfigError, match=words):
        select([folder], [parse_condition(condition, "--where")])


def test_what_is_filtered_is_told_apart_by_what_is_left(folder):
    results = select([folder], [parse_condition("steps=60")]).results
    assert [result.settings for result in results] == [{"train.seed": 0}, {"train.seed": 1}]
    selection = select([folder], [parse_condition("steps=60")], {"steps": "--rows", "lr": "--cols"})
    assert selection.keys == {"steps": "train.steps", "lr": "optimizer.lr"}
    assert selection.results[0].settings == {"train.seed": 0, "train.steps": 60, "optimizer.lr": 0.001}


def test_several_sweeps_in_one_table_are_told_apart_by_their_names(folder, tmp_path):
    other = make_trial(tmp_path, "t300", "other", overrides={"train.seed": 0}, result={TOP1: 0.5})
    other.config.write_text(config_text(30, 0))
    results = select([folder, tmp_path / "other"]).results
    assert [(result.trial, result.settings["experiment"]) for result in results][-2:] == [
        ("t601", "exp"),
        ("t300", "other"),
    ]
    groups = group_over(results, "seed")
    assert [(group.settings["experiment"], len(group.trials)) for group in groups] == [
        ("exp", 2),
        ("exp", 2),
        ("other", 1),
    ], "the same computation in two sweeps is one value, not two seeds"
    only = select([folder, tmp_path / "other"], [parse_condition("experiment=other")]).results
    assert [result.trial for result in only] == ["t300"]
