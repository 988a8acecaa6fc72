"""Mixed precision: autocast for the forward pass, loss scaling for fp16, and the optimizer step."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor

from runner.explain import OptionError
from runner.optimizer import clip_gradients

PrecisionName = Literal["no", "fp16", "bf16"]

DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Precision:
    """How a trial computes: everything in float32 (`no`), or matrix products and convolutions in 16 bits.

    fp16 scales the loss so that small gradients survive, and leaves out the steps whose gradients overflowed.

    Raises ConfigError for bf16 on a GPU that does not compute in it.
    """

    def __init__(self, name: PrecisionName, device: torch.device) -> None:
        needs_gpu_support = name == "bf16" and device.type == "cuda"
        if needs_gpu_support and not torch.cuda.is_bf16_supported(including_emulation=False):
            gpu = torch.cuda.get_device_name(device)
            raise OptionError("train.precision", f'"bf16" is not allowed on {gpu}; use fp16 or "no"')
        self.name = name
        self.device = device
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16")

    def autocast(self) -> AbstractContextManager[object]:
        """The context of the forward pass and the loss; does nothing, and costs nothing, for `no`."""
        if self.name == "no":
            return nullcontext()
        return torch.autocast(self.device.type, DTYPES[self.name])

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss`, scaled under fp16, to those already there."""
        torch.autograd.backward(self.scaler.scale(loss) if self.name == "fp16" else loss)

    def step(self, optimizer: torch.optim.Optimizer, max_norm: float | None = None) -> Tensor | None:
        """One optimizer step from the gradients of `backward`; with `max_norm`, their norm before clipping.

        Under fp16 a norm of inf or nan means that the step was left out and the loss scale lowered.
        """
        norm = None
        if max_norm is not None:
            self.scaler.unscale_(optimizer)
            norm = clip_gradients(optimizer, max_norm)
        self.scaler.step(optimizer)
        self.scaler.update()
        return norm

    def state_dict(self) -> dict[str, Any]:
        """The loss scale and its growth counter; empty unless fp16."""
        return self.scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the loss scale of `state_dict`."""
        self.scaler.load_state_dict(state)
