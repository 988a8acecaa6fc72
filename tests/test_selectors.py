"""Trials are chosen by what their configs say, whoever set it."""

import pytest

from runner.cli import run as cli
from runner.conditions import Condition, parse_condition
from runner.errors import ConfigError
from runner.selectors import select
from tests.trials import make_trial


def map_conditions(words: list[str]) -> list[Condition]:
    return [parse_condition(word) for word in words]


@pytest.fixture
def runs(tmp_path):
    settings = [(0.1, "resnet18", 0), (0.1, "vit", 1), (0.2, "resnet50", 1)]
    return [
        make_trial(
            tmp_path,
            f"t{i}",
            overrides={"optimizer": {"lr": lr}, "encoder": {"name": encoder}, "train": {"seed": seed, "steps": 500}},
            result={},
        )
        for i, (lr, encoder, seed) in enumerate(settings)
    ]


@pytest.mark.parametrize(
    ("words", "chosen"),
    [
        ([], "t0 t1 t2"),
        (["optimizer.lr=0.1"], "t0 t1"),
        (["lr=1e-1", "seed=1"], "t1"),
        (["!lr=0.1"], "t2"),
        (["encoder=res*"], "t0 t2"),
        (["encoder.name=vit"], "t1"),
        (["!encoder=res*", "!seed=0"], "t1"),
        (["steps=500"], "t0 t1 t2"),
        (["lr=3"], ""),
        (["lr>0.1"], "t2"),
        (["lr<=0.1", "seed!=0"], "t1"),
        (["encoder=vit,*50"], "t1 t2"),
        (["!encoder=vit,*50"], "t0"),
    ],
)
def test_conditions_hold_together(runs, words, chosen):
    assert " ".join(run.trial for run in select(runs, map_conditions(words))) == chosen


@pytest.mark.parametrize("text", ["4827193650", "12345e6789", "0017", "1_000", "true", "null"])
def test_a_string_is_compared_with_what_is_written(text):
    """The id of a trial, or the name of a sweep, may look like a number."""
    for value in (text, f"x,{text}", f"'{text}'", f"{text[:-1]}?"):
        assert parse_condition(f"trial={value}").holds({"trial": text})
        assert not parse_condition(f"trial!={value}").holds({"trial": text})
        assert not parse_condition(f"trial={value}").holds({"trial": "other"})
    assert parse_condition(f"names=[{text}, a]").holds({"names": [text, "a"]})


def test_a_key_that_no_trial_has_is_told(runs):
    with pytest.raises(ConfigError, match=r'lrr: no trial has this key; did you mean "lr"\?'):
        select(runs, map_conditions(["lrr=1"]))
    with pytest.raises(ConfigError, match=r'optimiser.lr: no trial has this key; did you mean "optimizer.lr"\?'):
        select(runs, map_conditions(["optimiser.lr=1"]))
    with pytest.raises(ConfigError, match=r"lr: must be KEY=VALUE"):
        map_conditions(["lr"])


def test_status_takes_selectors_and_states(runs, tmp_path, capsys):
    root = ["--root", str(tmp_path)]
    assert cli(["status", "exp", "seed=1", "!lr=0.2", *root]) == 0
    shown = capsys.readouterr().out
    assert "t1" in shown and "t0" not in shown and "1 done" in shown
    assert cli(["status", "seed=1", "--state", "done,failed", *root]) == 0
    assert "2 done" in capsys.readouterr().out
    assert cli(["status", "--state", "failed", *root]) == 0
    assert capsys.readouterr().out == "none of 3 trials\n"
    assert cli(["status", "exp", "seed=7", *root]) == 0
    assert capsys.readouterr().out == "none of 3 trials\n"
    assert cli(["status", "--state", "fialed", *root]) == 2
    assert capsys.readouterr().err == 'runner: --state fialed: did you mean "failed"?\n'
