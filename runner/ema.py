"""Momentum targets: modules that follow another one by an exponential moving average of its weights."""

import math

import torch
from torch import Tensor, nn


@torch.no_grad()
def update_ema(target: nn.Module, online: nn.Module, momentum: float) -> None:
    """Move every tensor of `target` towards `online`: t <- momentum * t + (1 - momentum) * o.

    Parameters and floating-point buffers of any dtype are averaged; integer buffers, such as batch norm's
    counter, are copied. Momentum 1 leaves the averaged tensors as they are, 0 copies them, both bitwise.
    Nothing waits for the device. The two modules must be built alike: same tensors, same order, same dtypes.

    The average is rounded to the dtype of the target: in bfloat16 a momentum of 0.999 hardly moves at all, so
    keep targets in float32 and let autocast lower the precision of their forward pass.

    Source: mean teacher (Tarvainen & Valpola 2017, eq. 1); BYOL (Grill et al. 2020, eq. 1).
    """
    averaged, followed, counters, counted = _pair(target, online)
    if averaged:
        torch._foreach_lerp_(averaged, followed, 1 - momentum)
    if counters:
        torch._foreach_copy_(counters, counted)


def momentum_at(step: int, steps: int, start: float = 0.996, end: float = 1.0) -> float:
    """The momentum of a target: `start` to `end` along a half cosine over `steps` steps or epochs, then `end`.

    Source: BYOL (Grill et al. 2020, section 3.2), for end 1.
    """
    return end - (end - start) * (1 + math.cos(math.pi * min(step, steps) / steps)) / 2


def _pair(target: nn.Module, online: nn.Module) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    """Floats of target and online, integers of target and online, each pair in one order."""
    averaged: list[Tensor] = []
    followed: list[Tensor] = []
    counters: list[Tensor] = []
    counted: list[Tensor] = []
    for mine, theirs in zip(_tensors(target), _tensors(online), strict=True):
        assert mine.dtype == theirs.dtype, f"target holds {mine.dtype}, online {theirs.dtype}"
        assert mine.shape == theirs.shape, f"target holds {tuple(mine.shape)}, online {tuple(theirs.shape)}"
        (averaged if mine.is_floating_point() else counters).append(mine)
        (followed if mine.is_floating_point() else counted).append(theirs)
    return averaged, followed, counters, counted


def _tensors(module: nn.Module) -> dict[Tensor, None]:
    """Every parameter and buffer once, as an ordered set."""
    # One walk over the tree: parameters() and buffers() together take twice as long, and this is every step.
    return dict.fromkeys(
        tensor
        for part in module.modules()
        for tensor in (*part._parameters.values(), *part._buffers.values())
        if tensor is not None
    )
