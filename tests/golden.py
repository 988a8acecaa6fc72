"""Arrays computed by the systems this project replaces, from tests/golden.

RUNNER_GOLDEN names another folder of the same layout to read instead.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch


def golden_folder() -> Path:
    return Path(os.environ.get("RUNNER_GOLDEN", Path(__file__).parent / "golden"))


def load_golden(name: str) -> dict[str, Any]:
    """The arrays of `name`.npz: numbers as tensors in their own precision, text as numpy arrays."""
    with np.load(golden_folder() / f"{name}.npz") as arrays:
        return {
            key: torch.from_numpy(arrays[key].copy()) if arrays[key].dtype.kind in "biuf" else arrays[key]
            for key in arrays.files
        }


def cases(golden: dict[str, Any]) -> list[dict[str, Any]]:
    """The arrays called c0_x, c0_y, c1_x ... as one dict a case, without the prefix."""
    found: dict[int, dict[str, Any]] = {}
    for key, array in golden.items():
        prefix, _, rest = key.partition("_")
        if rest and prefix[0] == "c" and prefix[1:].isdigit():
            found.setdefault(int(prefix[1:]), {})[rest] = array
    assert found, "no cases in this file"
    return [found[index] for index in sorted(found)]
