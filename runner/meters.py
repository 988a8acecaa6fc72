"""Running means of what a step measures, kept on the device until a row of metrics is written.

Shapes: M measurements by name, K steps (or micro-batches) since the last row.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from runner.group import Group


class Meters:
    """What was measured since the last row; adding costs one small device operation and no synchronisation.

    Nothing is summed before a row is due: the order of the sum, and so its last bit, does not depend on where
    an interruption cut the steps.
    """

    def __init__(self) -> None:
        self._rows_M: dict[tuple[str, ...], list[Tensor]] = {}
        self._floats: dict[str, float] = {}
        self._tensors: dict[str, Tensor] = {}

    def add(self, measurements: Mapping[str, Tensor | float]) -> None:
        """Add one step's (or micro-batch's) measurements: tensors are averaged, floats keep their last value.

        Names may come and go, as the losses of a curriculum do; each is averaged over the steps that had it.
        """
        tensors: dict[str, Tensor] = {}
        for name, value in measurements.items():
            if isinstance(value, Tensor):
                tensors[name] = value
            else:
                self._floats[name] = value
        # Stacked now: what a method measures may be a view of a parameter, which the next step changes.
        self._rows_M.setdefault(tuple(tensors), []).append(torch.stack(tuple(tensors.values())))

    def put(self, name: str, value: Tensor) -> None:
        """Keep the last value of a device scalar, such as a gradient norm."""
        self._tensors[name] = value

    def flush(self, group: Group) -> dict[str, float]:
        """The means over steps and ranks since the last flush, and a fresh start; a collective call.

        This is the one place of the training loop that waits for the device.
        """
        if not self._rows_M:
            return {}
        sums: dict[str, Tensor] = {}
        counts: dict[str, int] = {}
        for names, rows_M in self._rows_M.items():
            for name, total in zip(names, torch.stack(rows_M).sum(0, dtype=torch.float64).unbind(), strict=True):
                sums[name] = sums[name] + total if name in sums else total
                counts[name] = counts.get(name, 0) + len(rows_M)
        means_M = torch.stack([total / counts[name] for name, total in sums.items()]).float()
        means_M = group.all_reduce_sum(means_M) / group.world
        extra = [value.to(means_M) for value in self._tensors.values()]
        numbers = torch.cat([means_M, torch.stack(extra)] if extra else [means_M]).tolist()
        row = dict(zip((*sums, *self._tensors), numbers, strict=True)) | self._floats
        self._rows_M, self._floats, self._tensors = {}, {}, {}
        return row

    def is_finite(self, group: Group) -> bool:
        """Whether every `loss` since the last flush is a number on all ranks; a collective call.

        Other measurements may be nan, such as a share of nothing; a part of the loss that is makes the sum so.
        """
        losses = [
            torch.stack(rows_M)[:, names.index("loss")] for names, rows_M in self._rows_M.items() if "loss" in names
        ]
        bad = any(not bool(losses_K.isfinite().all()) for losses_K in losses)
        return not group.agree_max(int(bad))

    def state_dict(self) -> dict[str, Any]:
        return {
            "rows": [[list(names), torch.stack(rows_M)] for names, rows_M in self._rows_M.items()],
            "floats": dict(self._floats),
            "tensors": dict(self._tensors),
        }

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        self._rows_M = {tuple(names): list(rows_KM.to(device)) for names, rows_KM in state["rows"]}
        self._floats = dict(state["floats"])
        self._tensors = {name: value.to(device) for name, value in state["tensors"].items()}
