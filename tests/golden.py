"""Arrays computed by the systems this project replaces; RUNNER_GOLDEN names another folder of the same layout."""

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def golden_folder() -> Path:
    return Path(os.environ.get("RUNNER_GOLDEN", Path(__file__).parent / "golden"))


def load_golden(name: str) -> dict[str, Tensor]:
    """The numeric arrays of `name`.npz as tensors, in their own precision; text arrays are left out."""
    with np.load(golden_folder() / f"{name}.npz") as arrays:
        return {key: torch.from_numpy(arrays[key].copy()) for key in arrays.files if arrays[key].dtype.kind in "biuf"}


def cases(golden: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """The arrays called c0_x, c0_y, c1_x ... as one dict a case, without the prefix."""
    found: dict[int, dict[str, Tensor]] = {}
    for key, array in golden.items():
        prefix, _, rest = key.partition("_")
        if rest and prefix[0] == "c" and prefix[1:].isdigit():
            found.setdefault(int(prefix[1:]), {})[rest] = array
    assert found, "no cases in this file"
    return [found[index] for index in sorted(found)]
