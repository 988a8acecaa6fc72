"""Where on a protein its sorting signals are, as targets for every residue.

Shapes: N proteins, L residues, C classes.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from runner.proteins.table import Protein

MotifTarget = Literal["span", "site"]


def motif_targets(proteins: Sequence[Protein], residues: int, classes: int, target: MotifTarget = "span") -> Tensor:
    """(N, L, C) uint8, 1 for the residues of a motif of that class, or (site) for its last residue alone.

    The last residue is where signal and transit peptides are cut off.
    """
    targets_NLC = torch.zeros(len(proteins), residues, classes, dtype=torch.uint8)
    for targets_LC, protein in zip(targets_NLC, proteins, strict=True):
        for start, stop, label in protein.motifs:
            targets_LC[(start if target == "span" else stop - 1) : stop, label] = 1
    return targets_NLC
