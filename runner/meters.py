"""Running means of what a step measures, kept on the device until a row of metrics is written."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from runner.group import Group


class Meters:
    """Sums since the last row; adding costs one fused device operation and no synchronisation."""

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._sums: list[Tensor] = []
        self._count = 0
        self._floats: dict[str, float] = {}
        self._tensors: dict[str, Tensor] = {}

    def add(self, measurements: Mapping[str, Tensor | float]) -> None:
        """Add one step's (or micro-batch's) measurements: tensors are averaged, floats keep their last value."""
        tensors = []
        names = []
        for name, value in measurements.items():
            if isinstance(value, Tensor):
                names.append(name)
                tensors.append(value)
            else:
                self._floats[name] = value
        if tuple(names) != self._names:
            assert self._count == 0, f"measurements changed from {self._names} to {tuple(names)} between two rows"
            self._names = tuple(names)
            self._sums = [torch.zeros((), dtype=torch.float32, device=t.device) for t in tensors]
        torch._foreach_add_(self._sums, tensors)
        self._count += 1

    def put(self, name: str, value: Tensor) -> None:
        """Keep the last value of a device scalar, such as a gradient norm."""
        self._tensors[name] = value

    def flush(self, group: Group) -> dict[str, float]:
        """The means over steps and ranks since the last flush, and a fresh start; a collective call.

        This is the one place of the training loop that waits for the device.
        """
        if self._count == 0:
            return {}
        values = torch.stack([total / self._count for total in self._sums])
        values = group.all_reduce_sum(values) / group.world
        extra = [value.to(values) for value in self._tensors.values()]
        numbers = torch.cat([values, torch.stack(extra)] if extra else [values]).tolist()
        row = dict(zip((*self._names, *self._tensors), numbers, strict=True)) | self._floats
        self._sums = [torch.zeros_like(total) for total in self._sums]
        self._count, self._floats, self._tensors = 0, {}, {}
        return row

    def is_finite(self, group: Group) -> bool:
        """Whether no nan or inf came in on any rank since the last flush; a collective call."""
        bad = any(not bool(torch.isfinite(total)) for total in self._sums)
        return not group.agree_max(int(bad))

    def state_dict(self) -> dict[str, Any]:
        return {
            "names": list(self._names),
            "sums": list(self._sums),
            "count": self._count,
            "floats": dict(self._floats),
            "tensors": dict(self._tensors),
        }

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        self._names = tuple(state["names"])
        self._sums = [total.to(device) for total in state["sums"]]
        self._count = state["count"]
        self._floats = dict(state["floats"])
        self._tensors = {name: value.to(device) for name, value in state["tensors"].items()}
