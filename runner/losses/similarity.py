"""What the pairwise losses do first: rows in float32, mostly of length 1, and a learnt scale for their cosines."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Clamp = Literal["straight-through", "hard"]


def float_rows(x: Tensor) -> Tensor:
    """Rows in float32; float64 stays float64."""
    return x if x.dtype == torch.float64 else x.float()


def unit_rows(x: Tensor) -> Tensor:
    """`float_rows` of length 1 along the last dimension."""
    return F.normalize(float_rows(x), dim=-1)


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
