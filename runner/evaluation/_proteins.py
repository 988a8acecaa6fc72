"""From rows to proteins: a long protein is several fragments, each a row, and is evaluated as one sample.

Shapes: N rows, P proteins, L residues of a row, C classes.
"""

import numpy as np
import torch
from torch import Tensor

from runner.dataset import Records
from runner.evaluation._multilabel import site_accuracy
from runner.features import FrozenFeatures
from runner.proteins.alphabet import lengths
from runner.proteins.fragments import Joined, join_fragments, pool_max, pool_mean

MAXIMUM = "scores"
"""Of the logits of classes the largest counts: a signal is in one fragment. All else is averaged."""

BY_RESIDUE = "motif_scores"


def pool_proteins(split: FrozenFeatures) -> FrozenFeatures:
    """One row a protein, in the order of their first rows, of samples with a column `protein`; others stay as they are.

    Features and other outputs are averaged over the rows of a protein, scores are the largest; what was found for
    each residue is left out. All on the CPU; `data` still has all rows.
    """
    data = split.data
    if not isinstance(data, Records) or "protein" not in data.columns:
        return split
    protein_N = number_proteins(data)
    _, first_P = np.unique(protein_N.numpy(), return_index=True)
    others = {
        name: (pool_max if name == MAXIMUM else pool_mean)(Joined(values.cpu(), protein_N))
        for name, values in split.others.items()
        if name != BY_RESIDUE
    }
    labels = None if split.labels is None else split.labels.cpu()[first_P]
    return split._replace(features=pool_mean(Joined(split.features.cpu(), protein_N)), labels=labels, others=others)


def number_proteins(data: Records) -> Tensor:
    """(N,) which protein a row is of, from 0 without gaps, in the order of their first rows."""
    _, first_N, number_N = np.unique(data.columns["protein"].cpu().numpy(), return_index=True, return_inverse=True)
    return torch.from_numpy(first_N.argsort().argsort()[number_N.ravel()])


def motif_accuracy(split: FrozenFeatures) -> dict[str, float]:
    """By class, the share of proteins whose residue with the largest of `motif_scores` is the marked one.

    Of a span the first residue is (`site_accuracy`). Scores are averaged where fragments overlap. Nothing without
    such scores, or without motifs in the data.
    """
    data, scores_NLC = split.data, split.others.get(BY_RESIDUE)
    if scores_NLC is None or not isinstance(data, Records) or "motif" not in data.columns:
        return {}
    columns = {name: column.cpu() for name, column in data.columns.items()}
    place = lengths(columns["sequence"]), columns["start"], number_proteins(data)
    joined = join_fragments(scores_NLC.cpu(), *place)
    targets_RC = join_fragments(columns["motif"].float(), *place).values
    return site_accuracy(joined.values.numpy(), targets_RC.numpy() > 0, joined.protein.numpy(), data.classes)
