"""The optimizer of a trial: parameter groups with their own rate and decay, the learning rate, clipping."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from runner.config import GroupOptions, OptimizerConfig
from runner.explain import OptionError, did_you_mean
from runner.lars import LARS
from runner.method import Method


def build_optimizer(method: Method, config: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW, Adam, SGD or LARS over the trainable parameters of `method`, in the groups it names.

    Each torch group carries its `name` and `base_lr`, the rate that the schedule multiplies. Parameters in
    `method.no_weight_decay()` form groups of their own, `NAME/no_decay`; for LARS so do biases and the scales
    of norm layers, that is, all tensors of less than two dimensions, and these groups take plain SGD steps.
    Groups with the same rate and decay become one, `encoder+head`: each costs a kernel launch at every step.

    Raises ConfigError if `optimizer.groups` names a group that the method does not have.
    """
    groups = _merge(_torch_groups(method, config))
    if config.name == "sgd":
        # Not fused: torch's fused SGD leaves momentum uninitialised when loss scaling skips the first step,
        # and fails when a parameter gets its first gradient later than others.
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov, foreach=True)
    if config.name == "lars":
        return LARS(
            groups,
            lr=config.lr,
            momentum=config.momentum,
            nesterov=config.nesterov,
            eta=config.trust_coefficient,
        )
    fused = all(p.device.type in ("cpu", "cuda") for group in groups for p in group["params"])
    adam = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return adam(groups, lr=config.lr, betas=config.betas, fused=fused)


def _torch_groups(method: Method, config: OptimizerConfig) -> Iterator[dict[str, Any]]:
    named = {name: parameters for name, parameters in method.parameter_groups().items() if parameters}
    if unknown := sorted(set(config.groups) - set(named)):
        problem = f"unknown group of parameters; {did_you_mean(unknown[0], named)}"
        raise OptionError(f"optimizer.groups.{unknown[0]}", problem)
    grouped = {parameter for parameters in named.values() for parameter in parameters}
    forgotten = [name for name, p in method.named_parameters() if p.requires_grad and p not in grouped]
    assert not forgotten, f"{type(method).__name__}.parameter_groups() leaves out {', '.join(forgotten)}"
    undecayed = _undecayed(method)
    if config.name == "lars":
        undecayed |= {parameter for parameter in grouped if parameter.ndim < 2}
    for name, parameters in named.items():
        own = config.groups.get(name, GroupOptions())
        lr = config.lr if own.lr is None else own.lr
        decay = config.weight_decay if own.weight_decay is None else own.weight_decay
        for suffix, weight_decay, members in (
            ("", decay, [p for p in parameters if p not in undecayed]),
            ("/no_decay", 0.0, [p for p in parameters if p in undecayed]),
        ):
            if members:
                rates = {"lr": lr, "base_lr": lr, "weight_decay": weight_decay}
                only_lars = {"adapt": not suffix} if config.name == "lars" else {}
                apart = {"apart": True} if name in method.bystanders else {}
                yield {"name": name + suffix, "params": members, **rates, **only_lars, **apart}


def _merge(groups: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    merged: dict[tuple[float, float, bool, bool], dict[str, Any]] = {}
    for group in groups:
        alike = group["lr"], group["weight_decay"], group.get("adapt", True), group.get("apart", False)
        same = merged.setdefault(alike, {**group, "name": None, "params": []})
        same["name"] = f"{same['name']}+{group['name']}" if same["name"] else group["name"]
        same["params"] += group["params"]
    return list(merged.values())


def _undecayed(method: Method) -> set[nn.Parameter]:
    parameters = dict(method.named_parameters())
    names = method.no_weight_decay()
    unknown = sorted(names - set(parameters))
    assert not unknown, f"{type(method).__name__}.no_weight_decay() names {unknown[0]}, which is no parameter"
    return {parameters[name] for name in names}


def set_learning_rate(optimizer: torch.optim.Optimizer, multiplier: float) -> None:
    """Give every group its base learning rate times `multiplier`, the value of the schedule at this step."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * multiplier


def clip_gradients(optimizer: torch.optim.Optimizer, max_norm: float) -> Tensor:
    """Scale all gradients down so that their joint 2-norm is at most `max_norm`; gives the norm before, 0-d.

    A group that stands apart has a norm of its own, which is not told: it changes nothing for the others. Nothing
    waits for the device: a norm that is not finite comes back as it is, and the gradients become nan.
    """
    together: list[Tensor] = []
    for group in optimizer.param_groups:
        if group.get("apart"):
            nn.utils.clip_grad_norm_(group["params"], max_norm, error_if_nonfinite=False, foreach=True)
        else:
            together += group["params"]
    return nn.utils.clip_grad_norm_(together, max_norm, error_if_nonfinite=False, foreach=True)
