"""Layer-wise adaptive rate scaling: every tensor moves by a share of its own length.

Source: You et al. 2017, "Large Batch Training of Convolutional Networks".
"""

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT


class LARS(torch.optim.Optimizer):
    """SGD whose step is scaled, tensor by tensor, by eta |w| / (|g| + weight_decay |w| + eps).

    d = g + weight_decay w;  buffer <- momentum buffer + (1 - dampening) d, from a buffer of zeros;
    w <- w - lr ratio (buffer, or d + momentum buffer with Nesterov). The ratio is that of the current step, as
    in stable_ssl, and eta for a tensor that is zero or whose gradient is.

    A group of parameters with `adapt=False` has ratio 1, which makes it plain SGD: give biases and the scales
    of norm layers such a group, without weight decay.

    `stable_ssl_start` starts as that system does: each buffer at the first d rather than at zero, and a tensor
    that is zero at the full learning rate, which is a thousand times what the others move at.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        eta: float = 1e-3,
        dampening: float = 0.0,
        nesterov: bool = False,
        eps: float = 0.0,
        adapt: bool = True,
        stable_ssl_start: bool = False,
    ) -> None:
        defaults = dict(
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            eta=eta,
            dampening=dampening,
            nesterov=nesterov,
            eps=eps,
            adapt=adapt,
            stable_ssl_start=stable_ssl_start,
        )
        super().__init__(params, defaults)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step from the gradients there are; parameters without one stay. Nothing waits for the device."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameters in _alike(group["params"]):
                self._move(parameters, group)
        return loss

    def _move(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Step with parameters of one device and dtype."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        ratios = _ratios(parameters, gradients, group) if group["adapt"] else None
        steps = list(torch._foreach_add(gradients, parameters, alpha=group["weight_decay"]))
        if group["momentum"]:
            steps = self._accelerate(parameters, steps, group)
        if ratios is not None:
            torch._foreach_mul_(steps, ratios)
        torch._foreach_add_(parameters, steps, alpha=-group["lr"])

    def _accelerate(self, parameters: list[Tensor], steps: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
        """The steps with momentum, in memory of their own."""
        momentum = group["momentum"]
        for parameter, step in zip(parameters, steps, strict=True):
            if "momentum_buffer" not in self.state[parameter]:
                start = step.clone() if group["stable_ssl_start"] else torch.zeros_like(step)
                self.state[parameter]["momentum_buffer"] = start
        buffers = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        torch._foreach_mul_(buffers, momentum)
        torch._foreach_add_(buffers, steps, alpha=1 - group["dampening"])
        if group["nesterov"]:
            torch._foreach_add_(steps, buffers, alpha=momentum)
            return steps
        torch._foreach_copy_(steps, buffers)
        return steps


def _alike(parameters: Iterable[Tensor]) -> list[list[Tensor]]:
    """The parameters that have a gradient, by device and dtype."""
    found: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            found.setdefault((parameter.device, parameter.dtype), []).append(parameter)
    return list(found.values())


def _ratios(parameters: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
    """The factor of each tensor's step, as scalars on its device."""
    w, g = (torch.stack(torch._foreach_norm(tensors)) for tensors in (parameters, gradients))
    ratio = group["eta"] * w / (g + group["weight_decay"] * w + group["eps"])
    otherwise = 1.0 if group["stable_ssl_start"] else group["eta"]
    return list(ratio.where((w > 0) & (g > 0), otherwise).unbind())
