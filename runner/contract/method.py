"""What every method keeps."""

import inspect
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from runner import named
from runner.config import Trial
from runner.contract.ranks import Measured, measure, measure_on
from runner.contract.surroundings import no_global_draws, undisturbed
from runner.dataset import Split
from runner.experiment import validate
from runner.explain import did_you_mean
from runner.faults import Fault, Proof
from runner.group import Group
from runner.loader import plain_batch
from runner.method import Method, evaluating
from runner.prepare import prepare
from runner.rank import run_rank
from runner.rendezvous import Place
from runner.run import build_method
from runner.rundir import RunDir
from runner.trial_data import build_data
from runner.verify import find_difference

DEFAULTS: dict[str, Any] = {
    "name": "contract",
    "encoder": {"name": "small_convnet", "widths": [8, 16]},
    "data": {"name": "synthetic", "samples": 96},
    "views": {"blur": {"probability": 0.0}},
    "optimizer": {"name": "sgd", "lr": 0.01},
    "train": {"steps": 8, "batch_size": 24},
    "tracking": {"every_steps": 1},
}
"""The other groups of the experiment, unless a check is told otherwise."""

RANKS = 2
CUT_AT = (2, 2)
"""Steps after which each attempt is told to save and leave."""

CLOSE, ROUGHLY = 2e-4, 5e-3
"""Relative differences of losses, and of gradients, that are rounding in 32 bits."""


def check_method(config: Mapping[str, Any], **groups: Any) -> None:
    """It trains the same on one rank and on two, and interrupted; every parameter gets a gradient; hooks have names.

    `groups` are others than DEFAULTS, such as `data` and `encoder` for a method that takes records. Batch statistics
    and dropout, which each rank has of its own rows, are off while ranks are compared, as far as they are torch's
    modules; whatever else draws while training is to be switched off by its option.
    """
    trial = validate({**DEFAULTS, "method": dict(config), **groups})
    with undisturbed():
        check_hooks(trial)
        alone = measure(trial, Group())
        check_gradients(trial.method.name, alone)
        check_evaluation(trial)
        check_ranks(trial.method.name, alone, measure_on(trial, RANKS))
        check_resume(trial)


def check_hooks(trial: Trial) -> None:
    """Whatever is named like a hook is one, and takes what a hook takes."""
    name, method = trial.method.name, type(_build(trial)[0])
    hooks = {hook: value for hook, value in vars(Method).items() if hook.startswith(("before_", "after_"))}
    for hook in [each for each in dir(method) if each.startswith(("before_", "after_"))]:
        assert hook in hooks, f"{name}: nobody calls {hook}; {did_you_mean(hook, hooks)}"
        takes, given = (list(inspect.signature(call).parameters) for call in (getattr(method, hook), hooks[hook]))
        assert len(takes) == len(given), f"{name}: {hook} takes {takes}, should take {given}"


def check_gradients(name: str, found: Measured) -> None:
    """Losses are finite, and every parameter that is to be trained is."""
    assert all(map(math.isfinite, found.losses)), f"{name}: the first losses are {found.losses}"
    without = [parameter for parameter in found.trained if parameter not in found.moved]
    assert found.trained, f"{name}: has no parameter to train"
    assert not without, f"{name}: no gradient reaches {', '.join(without)}; freeze them, or set uses_all_parameters"


def check_ranks(name: str, alone: Measured, shared: Measured) -> None:
    """The loss, and its gradient, are one process's whatever the number of ranks."""
    for step, (one, many) in enumerate(zip(alone.losses, shared.losses, strict=True)):
        problem = f"{name}: the loss of step {step} is {one} on one rank and {many} on {RANKS}; gather what it compares"
        assert math.isclose(one, many, rel_tol=CLOSE, abs_tol=1e-6), problem
    largest = max(float(gradient.norm()) for gradient in alone.gradients.values())
    for parameter, one_gradient in alone.gradients.items():
        apart = float((one_gradient - shared.gradients[parameter]).norm())
        problem = f"{name}: the gradient of {parameter} differs by {apart:.3g} on {RANKS} ranks, the loss does not"
        assert apart <= ROUGHLY * (float(one_gradient.norm()) + 1e-2 * largest), problem


def check_evaluation(trial: Trial) -> None:
    """What evaluations get depends on each sample alone, and looking changes nothing."""
    name = trial.method.name
    method, data = _build(trial)
    plain = plain_batch(data, torch.arange(min(6, len(data))), torch.device("cpu"))
    before = {key: value.clone() for key, value in method.state_dict().items()}
    with torch.no_grad(), evaluating(method), no_global_draws(name, of_torch=True):
        found, again = method.embed(plain), method.embed(plain)
        first = method.embed(plain_batch(data, torch.arange(1), torch.device("cpu")))
    assert "features" in found, f"{name}: embed gives {sorted(found)}, and no features"
    declared = getattr(named.resolve_trial(trial).method, "outputs", None)
    assert declared is None or set(declared) == set(found), f"{name}: outputs says {declared}, embed {sorted(found)}"
    for key, value in found.items():
        assert len(value) == len(plain.ids if plain.ids is not None else value), f"{name}: {key} has other rows"
        assert key != "features" or value.isfinite().all(), f"{name}: embed gives features that are nan or inf"
        assert torch.equal(value, again[key]), f"{name}: embed gives other {key} at a second look"
        close = torch.allclose(first[key][0].float(), value[0].float(), rtol=1e-3, atol=1e-4)
        assert close, f"{name}: {key} of a sample depend on the others of its batch"
    changed = [key for key, value in method.state_dict().items() if not torch.equal(value, before[key])]
    assert not changed, f"{name}: embed changes {', '.join(changed)}"


def check_resume(trial: Trial) -> None:
    """Interrupted and resumed it ends where it ends uninterrupted, in every bit."""
    with tempfile.TemporaryDirectory() as folder:
        straight, cut = (RunDir(Path(folder) / trial.name / part) for part in ("straight", "cut"))
        for run in (straight, cut):
            prepare(run, trial, {}, ({}, ""))
        _train(straight, ())
        for step in CUT_AT:
            _train(cut, (Fault("step.end", "USR2", 0, step),))
        _train(cut, ())
        difference = find_difference(straight, cut, 1)
    remedy = "what must outlive a requeue is parameters, buffers and modules, or a function of the step"
    assert difference is None, f"{trial.method.name}: resumed, it differs in {difference}; {remedy}"


def _train(run: RunDir, faults: tuple[Fault, ...]) -> None:
    outcome, _ = run_rank(run, Place(), redirect=False, proof=Proof(faults, run.path / "journal", prompt=True))
    assert bool(outcome.verdict) == bool(faults), f"{run.trial}: left with {outcome.verdict.name}"


def _build(trial: Trial) -> tuple[Method, Split]:
    options = named.resolve_trial(trial)
    data = build_data(trial, options, torch.device("cpu")).train
    assert data is not None, "the trial has train.steps: 0"
    return build_method(trial, options, data, data, Group(), trial.train.steps or 1), data
