"""A checkpoint of N ranks, resumed on another number of them.

Samples, their order and the global batch do not depend on the number of ranks, so training goes on with the same
inputs; sums are taken in another order, so it is equal to rounding and not in every bit.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from runner.errors import CheckpointError
from runner.state import rng_state, rng_untouched, seed_everything


def check_batch_norm(names: Iterable[str], sync_batch_norm: bool) -> None:
    """Raise CheckpointError where a model with these tensors computes statistics of each rank's own share."""
    found = next((name for name in names if name.endswith("running_mean")), None)
    if found is not None and not sync_batch_norm:
        layer = found.removesuffix(".running_mean")
        raise CheckpointError(
            f"another number of ranks is not allowed: {layer} normalises each rank's share of the batch by itself, "
            "so its statistics depend on the ranks; train.sync_batch_norm: true or a group norm do not"
        )


def merge(parts: Sequence[dict[str, Any]], *, seed: int, rank: int, step: int) -> dict[str, Any]:
    """What a rank of the new world restores, from what each rank of the old one saved (`TrainState.own`).

    Generators cannot be divided: the new rank's start from (seed, rank, step). Raises: CheckpointError when the ranks
    held different buffers.
    """
    with rng_untouched():
        seed_everything(seed, 1 + rank, step)
        rng = rng_state()
    return {
        "buffers": _same_on_all([part["buffers"] for part in parts]),
        "meters": _mean_meters([part["meters"] for part in parts]),
        "rng": rng,
    }


def dropout_note(method: nn.Module) -> str | None:
    """What is to be said of a model with dropout; its masks come from each rank's own generator."""
    found = next((name for name, part in method.named_modules() if isinstance(part, nn.Dropout) and part.p > 0), None)
    return None if found is None else f"{found} draws other masks"


def _same_on_all(buffers: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    for name, buffer in buffers[0].items():
        for rank, other in enumerate(buffers):
            if not torch.equal(other[name], buffer):
                raise CheckpointError(
                    f"another number of ranks is not allowed: buffer {name} of rank {rank} is not that of rank 0"
                )
    return buffers[0]


def _mean_meters(meters: list[dict[str, Any]]) -> dict[str, Any]:
    """Every new rank gets the mean over the old ones, so that the mean over the new ones is the same."""
    rows = []
    for index, (names, _) in enumerate(meters[0]["rows"]):
        rows.append([names, torch.stack([each["rows"][index][1] for each in meters]).mean(0)])
    return {**meters[0], "rows": rows}
