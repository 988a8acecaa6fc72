"""Sweeps: what they expand to, what their trials are called, and how long that may take."""

import copy
import json
import math
import subprocess
import sys
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.distribution import Distribution, draw
from runner.errors import ConfigError
from runner.experiment import Experiment, load_experiment, validate
from runner.schema import Document, canonical, get_key
from runner.sweep import advice, expand, trial_id, trials
from tests.benchmarks.bench_sweep import ten_thousand_trials, time_sweep

BASE: dict[str, Any] = {
    "name": "x",
    "method": {"name": "scl", "gamma": 1.0},
    "encoder": {"name": "resnet9"},
    "data": {"name": "shapes"},
    "optimizer": {"lr": 1e-3},
    "train": {"steps": 10, "batch_size": 8},
}


def experiment(sweep: dict[str, Any] | None, base: dict[str, Any] = BASE) -> Experiment:
    return Experiment("x", base, sweep, Document({**base, "sweep": sweep}, {}, Path("exp.yaml")))


def settings(sweep: dict[str, Any]) -> list[dict[str, Any]]:
    return [variant.overrides for variant in expand(experiment(sweep))]


def told(sweep: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        trials(experiment(sweep))
    line = str(caught.value)
    assert line.isprintable()
    return line


def test_without_a_sweep_there_is_one_trial():
    [variant] = expand(experiment(None))
    assert (variant.overrides, variant.mapping) == ({}, BASE)
    assert settings({}) == [{}]


def test_a_grid_is_every_combination_in_the_order_of_the_file():
    sweep = {"grid": {"method.gamma": [0.0, 1.0], "optimizer.lr": [1, 2, 3]}, "seeds": [5, 6]}
    expected = [
        {"method.gamma": gamma, "optimizer.lr": lr, "train.seed": seed}
        for gamma, lr, seed in product([0.0, 1.0], [1, 2, 3], [5, 6])
    ]
    assert settings(sweep) == expected


def test_zip_goes_side_by_side_and_list_one_after_the_other():
    assert settings({"zip": {"optimizer.lr": [1, 2], "train.batch_size": [8, 16]}}) == [
        {"optimizer.lr": 1, "train.batch_size": 8},
        {"optimizer.lr": 2, "train.batch_size": 16},
    ]
    cases: list[dict[str, Any]] = [
        {"method.gamma": 0.5},
        {"method": {"name": "simclr"}, "train.epochs": 3},
        {},
    ]
    assert settings({"list": cases}) == cases


def test_all_kinds_multiply():
    sweep = {
        "grid": {"method.gamma": [0, 1]},
        "zip": {"optimizer.lr": [1, 2, 3], "train.batch_size": [8, 16, 32]},
        "list": [{"encoder.name": "resnet18"}, {"encoder.name": "resnet50"}],
        "random": {"samples": 5, "parameters": {"optimizer.weight_decay": {"uniform": [0, 1]}}},
        "seeds": [0, 1],
    }
    found = settings(sweep)
    assert len(found) == 2 * 3 * 2 * 5 * 2
    assert len({json.dumps(one, sort_keys=True) for one in found}) == len(found)
    assert len({one["optimizer.weight_decay"] for one in found}) == 5


def test_mappings_are_the_base_with_the_overrides_and_share_what_did_not_change():
    untouched = copy.deepcopy(BASE)
    for variant in expand(experiment({"grid": {"method.gamma": [0, 2], "optimizer.groups.head.lr": [3]}})):
        assert variant.mapping["method"] == {"name": "scl", "gamma": variant.overrides["method.gamma"]}
        assert variant.mapping["optimizer"] == {"lr": 1e-3, "groups": {"head": {"lr": 3}}}
        assert variant.mapping["data"] is BASE["data"]
    assert untouched == BASE


def test_when_adds_dimensions_to_those_that_match_and_nests():
    inner = {"if": {"method.temperature": 0.5}, "seeds": [1, 2]}
    sweep = {
        "grid": {"method.name": ["scl", "simclr", "relic"]},
        "when": [
            {"if": {"method.name": "simclr"}, "grid": {"method.temperature": [0.1, 0.5]}, "when": [inner]},
            {"if": {"method.name": ["simclr", "scl"]}, "grid": {"optimizer.lr": [7]}},
        ],
    }
    assert settings(sweep) == [
        {"method.name": "scl", "optimizer.lr": 7},
        {"method.name": "simclr", "method.temperature": 0.1, "optimizer.lr": 7},
        {"method.name": "simclr", "method.temperature": 0.5, "train.seed": 1, "optimizer.lr": 7},
        {"method.name": "simclr", "method.temperature": 0.5, "train.seed": 2, "optimizer.lr": 7},
        {"method.name": "relic"},
    ]


def test_exclude_leaves_out_what_matches_all_of_an_entry():
    sweep = {
        "grid": {"method.gamma": [0, 1], "optimizer.lr": [1, 2, 3]},
        "exclude": [
            {"method.gamma": 0.0, "optimizer.lr": [2, 3]},
            {"optimizer.lr": 1, "encoder.name": "vit"},
        ],
    }
    found = [(one["method.gamma"], one["optimizer.lr"]) for one in settings(sweep)]
    assert found == [(0, 1), (1, 1), (1, 2), (1, 3)]


def test_conditions_that_match_no_trial_are_told():
    sweep = {
        "grid": {"method.gamma": [0, 1]},
        "when": [
            {"if": {"method.gamma": 1.0}, "grid": {"optimizer.lr": [1, 2]}},
            {"if": {"method.gamma": 2}, "seeds": [0, 1]},
        ],
        "exclude": [{"method.gamma": 1, "optimizer.lr": 2}, {"method.gamma": [3, 4]}],
    }
    assert advice(experiment(sweep)) == [
        "exp.yaml: sweep.when.1.if: matches no trial",
        "exp.yaml: sweep.exclude.1: matches no trial",
    ]
    assert advice(experiment(None)) == advice(experiment({"seeds": [1]})) == []


def test_duplicates_are_one_trial():
    assert len(settings({"grid": {"method.gamma": [1, 1.0, 1.5]}})) == 2
    assert len(settings({"list": [{"method.gamma": 1.0}, {}, {"method.gamma": 1}]})) == 1


def test_a_trial_id_is_the_hash_of_what_is_computed_as_written():
    [variant] = expand(experiment(None))
    inside = {key: value for key, value in BASE.items() if key != "name"}
    text = json.dumps(inside, sort_keys=True, separators=(",", ":")).replace("1.0", "1")
    assert variant.trial_id == trial_id(BASE) == sha256(text.encode()).hexdigest()[:10] == "108a6c358b"


def test_groups_outside_the_identity_do_not_change_it():
    outside = {
        "name": "other",
        "resources": {"ranks": 4},
        "tracking": {"every_steps": 1},
        "checkpoint": {"keep": 9},
        "rehearse": {"at_step": 3},
        "sweep": {"seeds": [1]},
    }
    assert trial_id(BASE | outside) == trial_id(BASE)
    for key in BASE.keys() - outside:
        assert trial_id({**BASE, key: "changed"}) != trial_id(BASE), key
    # As written: a default that is written out is another text.
    assert trial_id({**BASE, "schedule": {"name": "constant"}}) != trial_id(BASE)


def shuffled(value: Any, data: st.DataObject) -> Any:
    if isinstance(value, dict):
        return {key: shuffled(value[key], data) for key in data.draw(st.permutations(list(value)))}
    return value


KEYS = st.sampled_from(["method.a", "method.b", "train.c", "new.d.e"])
NUMBERS = st.lists(st.integers(0, 5) | st.floats(0, 1), min_size=1, max_size=3)
SWEEPS = st.fixed_dictionaries(
    {},
    optional={
        "grid": st.dictionaries(KEYS, NUMBERS, min_size=1, max_size=3),
        "seeds": st.lists(st.integers(0, 9), min_size=1, max_size=3),
        "zip": st.integers(1, 3).flatmap(
            lambda size: st.dictionaries(
                st.sampled_from(["optimizer.lr", "optimizer.x"]),
                st.lists(st.integers(), min_size=size, max_size=size),
                min_size=1,
            )
        ),
        "random": st.builds(
            lambda samples, low, choice: {
                "samples": samples,
                "parameters": {"data.u": {"uniform": [low, low + 1]}, "data.c": {"choice": choice}},
            },
            st.integers(1, 4),
            st.integers(0, 3),
            NUMBERS,
        ),
    },
)


@given(sweep=SWEEPS, data=st.data())
def test_ids_do_not_depend_on_the_order_of_keys_or_values(sweep, data):
    names = {variant.trial_id for variant in expand(experiment(sweep))}
    other = shuffled(sweep, data)
    for key, values in other.get("grid", {}).items():
        other["grid"][key] = data.draw(st.permutations(values))
    if "seeds" in other:
        other["seeds"] = data.draw(st.permutations(other["seeds"]))
    if "random" in other:
        choice = other["random"]["parameters"]["data.c"]
        choice["choice"] = data.draw(st.permutations(choice["choice"]))
    found = expand(experiment(other, shuffled(BASE, data)))
    assert {variant.trial_id for variant in found} == names
    assert len(found) == len(names)


@given(sweep=SWEEPS)
def test_every_variant_is_what_its_overrides_say_and_is_called_by_its_mapping(sweep):
    for variant in expand(experiment(sweep)):
        assert variant.trial_id == trial_id(variant.mapping)
        for key, value in variant.overrides.items():
            assert get_key(variant.mapping, key) == value
            assert variant.origins[key].startswith("sweep.")


@given(
    grid=st.dictionaries(st.sampled_from(["method.a", "method.b", "train.c"]), NUMBERS, max_size=3),
    zipped=st.lists(st.tuples(st.integers(), st.integers()), max_size=3),
    seeds=st.lists(st.integers(0, 9), max_size=3),
)
def test_a_sweep_is_the_product_of_its_dimensions(grid, zipped, seeds):
    """Against nested loops."""
    sweep: dict[str, Any] = {"grid": grid} if grid else {}
    if zipped:
        sweep["zip"] = {"optimizer.lr": [one for one, _ in zipped], "optimizer.x": [two for _, two in zipped]}
    if seeds:
        sweep["seeds"] = seeds
    expected: list[dict[str, Any]] = [{}]
    for key, values in grid.items():
        expected = [{**found, key: value} for found in expected for value in values]
    if zipped:
        expected = [{**found, "optimizer.lr": one, "optimizer.x": two} for found in expected for one, two in zipped]
    if seeds:
        expected = [{**found, "train.seed": seed} for found in expected for seed in seeds]
    once = {canonical(found): found for found in reversed(expected)}
    found = [variant.overrides for variant in expand(experiment(sweep or None))]
    assert sorted(map(canonical, found)) == sorted(once)


def test_a_random_parameter_does_not_move_when_another_is_added():
    alone = {"samples": 8, "seed": 3, "parameters": {"optimizer.lr": {"loguniform": [1e-5, 1e-2]}}}
    both = {**alone, "parameters": {"method.gamma": {"uniform": [0, 1]}, **alone["parameters"]}}
    first = [one["optimizer.lr"] for one in settings({"random": alone})]
    assert first == [one["optimizer.lr"] for one in settings({"random": both})]
    assert first[:4] == [one["optimizer.lr"] for one in settings({"random": {**alone, "samples": 4}})]
    assert first != [one["optimizer.lr"] for one in settings({"random": {**alone, "seed": 4}})]


@pytest.mark.parametrize(
    ("spec", "share"),
    [
        ({"uniform": [2, 6]}, lambda value: (value - 2) / 4),
        ({"loguniform": [1e-5, 1e-1]}, lambda value: math.log(value / 1e-5) / math.log(1e4)),
        ({"int": [1, 8]}, lambda value: (value - 0.5) / 8),
        ({"choice": [30, 10, 20, 40]}, lambda value: (value - 5) / 40),
    ],
)
def test_draws_are_spread_evenly_over_their_range(spec, share):
    values = [draw(Distribution.model_validate(spec), 0, "x", index) for index in range(4000)]
    shares = [share(value) for value in values]
    assert all(0 <= one <= 1 for one in shares)
    quarters = [sum(low <= one < low + 0.25 for one in shares) for low in (0, 0.25, 0.5, 0.75)]
    # Binomial, 4000 samples with p = 1/4: 137 are five standard deviations.
    assert all(abs(count - 1000) < 137 for count in quarters), quarters


BAD = {
    "unknown kind": ({"gird": {"a.b": [1]}}, 'sweep.gird: unknown key; did you mean "grid"?'),
    "no list": ({"grid": {"method.gamma": 1}}, "sweep.grid.method.gamma: 1 is not allowed; must be a list"),
    "nested": (
        {"grid": {"method": {"gamma": [1]}}},
        'sweep.grid.method: {"gamma": [1]} is not allowed; must be',
    ),
    "empty": ({"grid": {"method.gamma": []}}, "sweep.grid.method.gamma: [] is not allowed"),
    "unequal": (
        {"zip": {"optimizer.lr": [1, 2], "train.batch_size": [8]}},
        "sweep.zip: lists must have one length; optimizer.lr has 2, train.batch_size has 1",
    ),
    "twice": (
        {"grid": {"train.seed": [1]}, "seeds": [2]},
        "sweep.seeds: train.seed is set twice, also as train.seed by sweep.grid.train.seed",
    ),
    "twice in when": (
        {"grid": {"method.gamma": [1]}, "when": [{"if": {"method.gamma": 1}, "grid": {"method.gamma": [2]}}]},
        "sweep.when.0.grid.method.gamma: method.gamma is set twice, also as method.gamma by sweep.grid.",
    ),
    "key and group": (
        {"grid": {"method.gamma": [1]}, "list": [{"method": {"name": "x"}}]},
        "sweep.list.0.method: method is set twice, also as method.gamma by sweep.grid.method.gamma",
    ),
    "key and group in one case": (
        {"list": [{"method.gamma": 1, "method": {"name": "x"}}]},
        "sweep.list.0.method.gamma: method.gamma is set twice, also as method by sweep.list.0.method",
    ),
    "outside": (
        {"grid": {"resources.ranks": [1, 2]}},
        "sweep.grid.resources.ranks: resources is no part of a",
    ),
    "seed": ({"seeds": [1, -1]}, "train.seed: -1 is not allowed; must be at least 0 (set by sweep.seeds)"),
    "seed type": ({"seeds": ["a"]}, 'sweep.seeds.0: "a" is not allowed; must be a whole number'),
    "value": (
        {"grid": {"optimizer.lr": [1, 0]}},
        "optimizer.lr: 0 is not allowed; must be greater than 0 (set by",
    ),
    "key": (
        {"grid": {"optimizer.lrr": [1]}},
        'optimizer.lrr: unknown key; did you mean "lr"? (set by sweep.grid.',
    ),
    "group": ({"grid": {"optimiser.lr": [1]}}, 'optimiser: unknown key; did you mean "optimizer"?'),
    "through a value": (
        {"grid": {"method.name.x": [1]}},
        'method.name: "scl" is not a mapping, so "x" cannot',
    ),
    "distribution": (
        {"random": {"samples": 2, "parameters": {"a.b": {"normal": [0, 1]}}}},
        'sweep.random.parameters.a.b.normal: unknown key; did you mean "uniform"?',
    ),
    "no distribution": (
        {"random": {"samples": 2, "parameters": {"a.b": {}}}},
        "sweep.random.parameters.a.b: needs exactly one of uniform, loguniform, int and choice",
    ),
    "reversed": (
        {"random": {"samples": 2, "parameters": {"a.b": {"uniform": [1, 0]}}}},
        "sweep.random.parameters.a.b: must go from low to high, got [1.0, 0.0]",
    ),
    "log of zero": (
        {"random": {"samples": 2, "parameters": {"a.b": {"loguniform": [0, 1]}}}},
        "sweep.random.parameters.a.b: loguniform must start above 0",
    ),
    "samples": ({"random": {"samples": 0, "parameters": {}}}, "sweep.random.samples: 0 is not allowed"),
    "no if": ({"when": [{"seeds": [1]}]}, "sweep.when.0.if: is missing"),
    "if typo": (
        {"when": [{"if": {"metod.name": "scl"}, "seeds": [1]}]},
        'sweep.when.0.if.metod.name: no trial writes this key; did you mean "method.name"?',
    ),
    "exclude typo": (
        {"exclude": [{"method.gama": 1}]},
        "sweep.exclude.0.method.gama: no trial writes this key",
    ),
    "exclude all": ({"seeds": [1], "exclude": [{"train.seed": 1}]}, "sweep.exclude: leaves no trial"),
    "too many": (
        {"grid": {f"method.{name}": list(range(100)) for name in "abcdefghi"}},
        "sweep: makes 1000000000000000000 trials; at most 100000 are allowed",
    ),
}


@pytest.mark.parametrize(("sweep", "expected"), BAD.values(), ids=list(BAD))
def test_mistakes_get_one_line(sweep, expected):
    assert expected in told(sweep)


FILE = """\
name: x
method: {name: scl, gamma: 1.0}
encoder: {name: resnet9}
data: {name: shapes}
optimizer: {lr: 1e-3}
train: {steps: 10, batch_size: 8}
sweep:
  grid:
    method.gamma: [0, 1]
    optimizer.lr:
      - 1e-3
      - -1
  seeds: [0, 1, 2]
"""


def test_a_mistake_in_a_sweep_is_found_by_its_line(tmp_path):
    path = tmp_path / "exp.yaml"
    path.write_text(FILE)
    with pytest.raises(ConfigError, match=r"exp\.yaml:10: optimizer\.lr: -1 is not allowed; .*\(set by sweep\.grid"):
        trials(load_experiment(path))


def test_what_the_command_line_sets_is_not_swept(tmp_path):
    path = tmp_path / "exp.yaml"
    path.write_text(FILE)
    pairs = trials(load_experiment(path, ["optimizer.lr=2e-3", "train.seed=7"]))
    assert [variant.overrides for variant, _ in pairs] == [{"method.gamma": 0}, {"method.gamma": 1}]
    assert {(trial.optimizer.lr, trial.train.seed) for _, trial in pairs} == {(2e-3, 7)}
    changed = expand(load_experiment(path, ["sweep.grid.optimizer.lr=[5]", "sweep.seeds=[3]"]))
    assert [variant.overrides["optimizer.lr"] for variant in changed] == [5, 5]
    assert len(expand(load_experiment(path, ["sweep=null"]))) == 1


def test_an_override_inside_of_what_is_swept_as_a_whole_is_refused(tmp_path):
    path = tmp_path / "exp.yaml"
    path.write_text(FILE.replace("    method.gamma: [0, 1]", "    method: [{name: scl}, {name: relic}]"))
    with pytest.raises(ConfigError, match=r"exp\.yaml:9: sweep\.grid\.method: sets method as a whole, which the ov"):
        expand(load_experiment(path, ["method.gamma=2"]))


def test_trials_are_what_each_variant_alone_would_be(tmp_path):
    path = tmp_path / "exp.yaml"
    path.write_text(FILE.replace("- -1", "- 0.5"))
    pairs = trials(load_experiment(path))
    assert len(pairs) == 12
    for variant, trial in pairs:
        assert trial == validate(variant.mapping)


def test_ten_thousand_trials_expand_validate_and_hash_quickly():
    seconds, count = time_sweep(ten_thousand_trials())
    assert count == 10_000
    assert seconds < 3


def test_reading_experiments_does_not_need_torch():
    code = "import runner.sweep, runner.profile, sys; sys.exit(bool({'torch', 'submitit'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
