"""Copies of proteins with some residues masked or exchanged: other views of the same sample.

Such a copy is the positive of an anchor that no other sample shares a class with. Which residues change is a
function of (seed, epoch, sample, view), as all draws are.

Sources: Yu et al. 2023 (CLEAN: ten masked copies of every class with a single member, a tenth of the residues).

Shapes: B sequences, L residues.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from runner.proteins.alphabet import PADDING, TWENTY, UNKNOWN

Kind = Literal["mask", "substitute"]

MUTATIONS = 4
"""Word of the generator's counter that keeps these draws apart from all others."""


def mutate(
    tokens_BL: Tensor,
    ids_B: Sequence[int] | NDArray[np.int64],
    *,
    seed: int,
    epoch: int,
    view: int,
    rate: float = 0.1,
    spread: float = 0.02,
    kind: Kind = "mask",
) -> Tensor:
    """(B, L) the tokens with a share of the residues unknown (X), or exchanged for any of the twenty.

    The share of each sequence is drawn from a normal distribution around `rate`, and kept within 0..1. Padding
    stays padding, and more of it changes no residue.
    """
    changed_BL = np.empty(tokens_BL.shape, bool)
    letters_BL = np.full(tokens_BL.shape, UNKNOWN, np.int64)
    for row, (changed_L, letters_L) in enumerate(zip(changed_BL, letters_BL, strict=True)):
        philox = np.random.Philox(key=[seed, epoch], counter=[0, view, MUTATIONS, int(ids_B[row])])
        generator = np.random.Generator(philox)
        share = min(max(generator.normal(rate, spread), 0.0), 1.0)
        # One number a residue says whether it changes and, below the share, into what.
        u_L = generator.random(len(changed_L))
        changed_L[:] = u_L < share
        if kind == "substitute":
            letters_L[changed_L] = 1 + np.minimum(len(TWENTY) * u_L[changed_L] / share, len(TWENTY) - 1).astype(int)
    real_BL = tokens_BL != PADDING
    changed = torch.from_numpy(changed_BL).to(tokens_BL.device) & real_BL
    letters = torch.from_numpy(letters_BL).to(tokens_BL.device, tokens_BL.dtype)
    return torch.where(changed, letters, tokens_BL)
