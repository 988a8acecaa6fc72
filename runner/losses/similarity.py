"""What the pairwise losses do first: rows in float32, mostly of length 1, and a learnt scale for their cosines."""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Clamp = Literal["straight-through", "hard"]


def float_rows(x: Tensor) -> Tensor:
    """Rows in float32; float64 stays float64."""
    return x if x.dtype == torch.float64 else x.float()


def unit_rows(x: Tensor) -> Tensor:
    """`float_rows` of length 1 along the last dimension; shorter ones than 1e-12 are divided by that.

    Differentiable once. It is F.normalize with a backward that takes one tensor of that size instead of five.
    """
    return _UnitRows.apply(float_rows(x))  # type: ignore[no-untyped-call, no-any-return]


class _UnitRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min_(1e-12)
        unit: Tensor = x / length
        ctx.save_for_backward(unit, length)
        return unit

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        unit, length = ctx.saved_tensors
        with torch.autocast(grad.device.type, enabled=False):
            along = torch.linalg.vecdot(unit, grad).unsqueeze(-1)
            return torch.addcmul(grad, unit, along, value=-1).div_(length)


def bounded_scale(log_scale: Tensor, max_scale: float | None, clamp: Clamp = "straight-through") -> Tensor:
    """exp(log_scale), at most `max_scale`; the scale is one over the temperature.

    A hard clamp has no gradient beyond the bound: a scale that has crossed it never comes back.
    Straight-through, log_scale has the gradient of the log of the scale in use, beyond the bound too, and
    comes back as soon as the loss wants a smaller one. Nothing keeps it from growing while the loss wants a
    larger one: whoever owns the parameter should pull it back to log(max_scale) after an optimizer step.
    """
    if clamp == "hard":
        return log_scale.exp().clamp(max=max_scale) if max_scale is not None else log_scale.exp()
    scale = log_scale.detach().exp()
    if max_scale is not None:
        scale.clamp_(max=max_scale)
    return scale * (1 + log_scale - log_scale.detach())
