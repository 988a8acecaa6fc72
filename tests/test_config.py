"""Experiment files: what they may say, and the one line that each mistake gets."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from runner.config import OptimizerConfig, Selection, Trial
from runner.errors import ConfigError
from runner.experiment import (
    check_machine,
    check_negatives,
    check_warmup,
    load_experiment,
    load_trial,
    validate,
    warnings,
)
from runner.schema import set_key
from runner.strict_yaml import dump_yaml
from runner.sweep import trials

FILE = """\
name: scl-gamma
method:    {name: scl, gamma: 1.0, alpha: 1.0}
encoder:   {name: resnet18, stem: small}
data:      {name: cifar10, root: ~/data, download: false}
views:     {global_views: 2, local_views: 4}
optimizer: {name: adamw, lr: 3e-4, weight_decay: 1e-5, groups: {head: {lr: 1e-3}}}
schedule:  {name: cosine, warmup_steps: 500}
train:     {epochs: 100, batch_size: 256, precision: bf16, accumulate: 1, max_grad_norm: 1.0, seed: 0}
evaluate:  {every_epochs: 5, probes: [linear, knn]}
checkpoint: {every_minutes: auto, keep: 3}
tracking:  {every_steps: 50, wandb: {mode: offline}}
resources: {ranks: 2}
"""

MINIMAL: dict[str, Any] = {
    "name": "x",
    "method": {"name": "scl"},
    "encoder": {"name": "resnet9"},
    "data": {"name": "shapes"},
    "optimizer": {"lr": 1e-3},
    "train": {"steps": 10, "batch_size": 8},
}


def told(folder: Path, overrides: list[str], text: str = FILE) -> str:
    """The one line that an experiment with these overrides is refused with."""
    (folder / "exp.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        trials(load_experiment(folder / "exp.yaml", overrides))
    line = str(caught.value).replace(f"{folder}/", "")
    assert line.isprintable()
    return line


def test_the_file_of_the_design_is_a_trial(tmp_path):
    (tmp_path / "exp.yaml").write_text(FILE)
    [(variant, trial)] = trials(load_experiment(tmp_path / "exp.yaml", ["train.seed=7"]))
    assert trial.method == Selection(name="scl", options={"gamma": 1.0, "alpha": 1.0})
    assert trial.optimizer == OptimizerConfig(name="adamw", lr=3e-4, weight_decay=1e-5, groups={"head": {"lr": 1e-3}})
    assert (trial.train.precision, trial.train.seed, trial.train.steps) == ("bf16", 7, None)
    assert trial.checkpoint.every_minutes == "auto"
    assert [probe.name for probe in trial.evaluate.probes] == ["linear", "knn"]
    assert variant.overrides == {}


def test_what_is_left_out_has_defaults_and_trials_are_frozen():
    trial = validate(MINIMAL)
    assert (trial.schedule.name, trial.views.global_views, trial.checkpoint.keep) == ("constant", 2, 3)
    assert trial == Trial.model_validate(MINIMAL)
    with pytest.raises(ValidationError, match="frozen"):
        trial.name = "y"  # type: ignore[misc]


BAD = {
    "optimizer.leaning_rate=1": "optimizer.leaning_rate: unknown key; there is betas, groups, lr, momentum, ",
    "train.epoch=1": 'override train.epoch=1: train.epoch: unknown key; did you mean "epochs"?',
    "metod.gamma=1": 'override metod.gamma=1: metod: unknown key; did you mean "method"?',
    "optimizer.lr='1e-3'": 'optimizer.lr: "1e-3" is not allowed; must be a number without quotes',
    "optimizer.lr=-1": "optimizer.lr: -1 is not allowed; must be greater than 0",
    "optimizer.lr=0": "optimizer.lr: 0 is not allowed; must be greater than 0",
    "optimizer.lr=nan": 'optimizer.lr: "nan" is not allowed; must be a finite number',
    "optimizer.lr=.inf": 'optimizer.lr: ".inf" is not allowed; must be a finite number',
    "optimizer.lr=1e999": "optimizer.lr: Infinity is not allowed; must be a finite number",
    "train.epochs=yes": 'train.epochs: "yes" is not allowed; must be a whole number',
    "train.epochs=true": "train.epochs: true is not allowed; must be a whole number",
    "train.deterministic=no": 'train.deterministic: "no" is not allowed; must be true or false',
    "train.batch_size=255": "255 is not allowed; must be divisible by 2 ranks x 1 passes, such as 254 or 256",
    "resources.ranks=300": "exp.yaml:8: train.batch_size: 256 is not allowed; must be divisible by 300 ranks",
    "optimizer.name=adamx": 'optimizer.name: "adamx" is not allowed; must be "adamw", "adam", "sgd" or "lars"',
    "train.precision=fp8": 'train.precision: "fp8" is not allowed; must be "no", "fp16" or "bf16"',
    "train.backend=mpi": 'train.backend: "mpi" is not allowed; must be "auto", "gloo" or "nccl"',
    "tracking.wandb.api_key=s3cr3t": "override tracking.wandb.api_key=...: tracking.wandb.api_key: looks",
    "checkpoint.every_minutes=0": '0 is not allowed; must be "auto" or greater than 0',
    "checkpoint.every_minutes=-5": "checkpoint.every_minutes: -5 is not allowed",
    "checkpoint.every_steps=0": "checkpoint.every_steps: 0 is not allowed; must be at least 1",
    "checkpoint.keep=0": "checkpoint.keep: 0 is not allowed",
    "train.seed=-1": "train.seed: -1 is not allowed; must be at least 0",
    "train.seed=9223372036854775808": "train.seed: 9223372036854775808 is not allowed; must be at most",
    "train={steps: -1, batch_size: 4}": "train.steps: -1 is not allowed; must be at least 1, or 0 to evaluate what",
    "train.epochs=null": "train: needs either epochs or steps; neither is given",
    "train.steps=5": "train: needs either epochs or steps; both are given",
    "evaluate.every_steps=5": "evaluate: every_epochs and every_steps are both given; keep one",
    "train={epochs: 3}": "override train={epochs: 3}: train.batch_size: is missing",
    "optimizer.momentum=0.5": "optimizer.momentum: is no option of adamw; leave it out",
    "optimizer.nesterov=true": "optimizer.nesterov: is no option of adamw",
    "optimizer={name: sgd, lr: 1, betas: [0, 0]}": "optimizer.betas: is no option of sgd",
    "optimizer={name: sgd, lr: 1, momentum: 0, nesterov: true}": "optimizer.nesterov: needs a momentum above",
    "optimizer.betas=[0.9, 1.0]": "optimizer.betas.1: 1 is not allowed; must be less than 1",
    "optimizer.groups.head.lrr=1": 'optimizer.groups.head.lrr: unknown key; did you mean "lr"?',
    "method=scl": 'method: "scl" is not allowed; must be a mapping; write {name: scl}',
    "method={gamma: 1}": "override method={gamma: 1}: method.name: is missing",
    "views.blur.kernel=4": "override views.blur.kernel=4: views.blur",
    "resources.ranks=0": "resources.ranks: 0 is not allowed; must be at least 1",
    "rehearse={at_step: 5, signal: HUP}": '"HUP" is not allowed; must be "USR2", "TERM" or "KILL"',
    "train.seed": "override train.seed: has no `=`; write KEY=VALUE",
    "sweep=3": "override sweep=3: sweep: 3 is not allowed; must be a mapping",
    "train={epochs: 0, batch_size: 0}": "train.epochs: 0 is not allowed; must be at least 1 (also refused: train.ba",
}


@pytest.mark.parametrize(("mistake", "expected"), BAD.items(), ids=list(BAD))
def test_mistakes_get_one_line(tmp_path, mistake, expected):
    line = told(tmp_path, [mistake])
    assert expected in line
    assert "s3cr3t" not in line


def test_a_rehearsal_comes_before_the_end(tmp_path):
    line = told(tmp_path, ["rehearse={at_step: 5}", "train.epochs=null", "train.steps=5"])
    assert line.endswith("rehearse.at_step: 5 is not allowed; must be less than train.steps, 5")


@pytest.mark.parametrize(
    "name", ["a/b", "..", "a\nb", "-x", "%j", "x" * 65, "", ".hidden", "a b", "café", "a\0b", "$(x)", "x\n"]
)
def test_names_that_are_no_safe_folder_are_refused(tmp_path, name):
    quoted = dump_yaml({"name": name})
    line = told(tmp_path, [], quoted + FILE.partition("\n")[2])
    assert re.search(r"^exp\.yaml:1: name: .* is not allowed; must be 1 to 64 letters, digits", line), line


@pytest.mark.parametrize("name", ["a", "SCL-gamma_2.1", "0", "x" * 64])
def test_names_that_are_safe_are_allowed(name):
    assert validate({**MINIMAL, "name": name}).name == name


@pytest.mark.parametrize("key", ["name", "method", "encoder", "data", "optimizer", "train"])
def test_what_has_no_default_must_be_there(tmp_path, key):
    without = "\n".join(line for line in FILE.splitlines() if not line.startswith(key))
    assert told(tmp_path, [], without) == f"exp.yaml: {key}: is missing"


def test_a_misspelt_group_is_not_told_as_two_refusals(tmp_path):
    line = told(tmp_path, [], FILE.replace("optimizer:", "optimiser:"))
    assert line == 'exp.yaml:6: optimiser: unknown key; did you mean "optimizer"? (also missing: optimizer)'


def test_errors_in_the_file_say_its_line(tmp_path):
    broken = FILE.replace("precision: bf16", "precison: bf16")
    line = told(tmp_path, [], broken)
    assert line == 'exp.yaml:8: train.precison: unknown key; did you mean "precision"?'


def test_nccl_needs_a_gpu():
    trial = validate(set_key(MINIMAL, "train.backend", "nccl"))
    check_machine(trial, cuda=True)
    with pytest.raises(ConfigError, match=r'train\.backend: "nccl" is not allowed without a GPU; use auto or'):
        check_machine(trial, cuda=False)


def test_fp16_on_a_cpu_is_advised_against():
    trial = validate(set_key(MINIMAL, "train.precision", "fp16"))
    assert [line.split(":")[0] for line in warnings(trial)] == ["train.precision"]
    assert warnings(trial, cuda=True) == warnings(validate(MINIMAL)) == []


def test_a_single_sample_has_no_negatives():
    trial = validate(MINIMAL | {"resources": {"ranks": 4}, "train": MINIMAL["train"] | {"accumulate": 2}})
    with pytest.raises(ConfigError, match=r"train\.batch_size: 8 .* the loss has no negatives; .* at least 16$"):
        check_negatives(trial)
    check_negatives(validate(MINIMAL | {"resources": {"ranks": 4}}))


def test_the_warmup_fits_into_the_training():
    check_warmup(10, 10)
    with pytest.raises(ConfigError, match=r"schedule\.warmup_steps: 11 is not allowed; must be at most 10"):
        check_warmup(11, 10)


@given(batch_size=st.integers(1, 4096), ranks=st.integers(1, 64), accumulate=st.integers(1, 16), data=st.data())
def test_the_suggested_batch_sizes_are_the_nearest_that_fit(batch_size, ranks, accumulate, data):
    def fits(size: int) -> str:
        train = {"steps": 1, "batch_size": size, "accumulate": accumulate}
        try:
            validate({**MINIMAL, "train": train, "resources": {"ranks": ranks}})
        except ConfigError as error:
            return str(error)
        return ""

    line = fits(batch_size)
    if batch_size % (ranks * accumulate) == 0:
        assert line == ""
        return
    nearest = [int(number) for number in line.partition("such as ")[2].split(" or ")]
    assert all(fits(number) == "" for number in nearest)
    below, above = min(nearest[0], batch_size), nearest[-1]
    between = data.draw(st.integers(max(1, below), above).filter(lambda size: size not in nearest))
    assert fits(between) != ""


RATES = st.floats(1e-12, 1e3)
NAMES = st.text(min_size=1).filter(str.isprintable)
TRIALS = st.fixed_dictionaries(
    {
        "train": st.fixed_dictionaries(
            {"steps": st.integers(1, 10**9), "batch_size": st.just(64)},
            optional={
                "precision": st.sampled_from(["no", "fp16", "bf16"]),
                "seed": st.integers(0, 2**63 - 1),
                "max_grad_norm": st.none() | RATES,
            },
        ),
        "optimizer": st.fixed_dictionaries(
            {"lr": RATES},
            optional={
                "betas": st.lists(st.floats(0, 0.99), min_size=2, max_size=2),
                "groups": st.dictionaries(NAMES, st.fixed_dictionaries({"lr": st.none() | RATES})),
            },
        ),
        "method": st.fixed_dictionaries(
            {"name": st.just("scl")},
            optional={"gamma": RATES, "big": st.just(1e300), "mode": st.text(), "on": st.booleans()},
        ),
    },
    optional={
        "init_from": st.none() | st.text(min_size=1),
        "checkpoint": st.fixed_dictionaries({"every_minutes": st.just("auto") | RATES}),
        "evaluate": st.fixed_dictionaries({"probes": st.lists(st.text(), unique=True)}),
    },
)


@given(TRIALS)
def test_a_dumped_trial_loads_as_itself(tmp_path_factory, mapping):
    trial = validate(MINIMAL | mapping)
    path = tmp_path_factory.getbasetemp() / "config.yaml"
    path.write_text(dump_yaml(trial.model_dump(mode="json")))
    assert load_trial(path) == trial


def _groups(value: Any, at: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every mapping of a dumped trial but those whose keys are free."""
    if not isinstance(value, dict) or at[-1:] in [
        ("method",),
        ("encoder",),
        ("data",),
        ("schedule",),
        ("groups",),
        ("wandb",),
    ]:
        return []
    return [at, *[found for key, item in value.items() for found in _groups(item, (*at, key))]]


DUMPED = validate(MINIMAL | {"tracking": {"wandb": {}}, "rehearse": {"at_step": 3}}).model_dump(mode="json")


@given(st.sampled_from(_groups(DUMPED)), st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1))
def test_any_unknown_key_anywhere_is_an_error(at, key):
    group = DUMPED
    for part in at:
        group = group[part]
    if key in group:
        return
    with pytest.raises(ConfigError, match=re.escape(f"{'.'.join([*at, key])}: unknown key; ")):
        validate(set_key(DUMPED, ".".join([*at, key]), 1))
