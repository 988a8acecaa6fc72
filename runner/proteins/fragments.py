"""Long proteins as overlapping fragments, and what an encoder found in the fragments put together again.

Shapes: P proteins, R residues of all of them in a row, F fragments, L residues of a fragment, D values a residue.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Joined(NamedTuple):
    """Rows that belong to proteins: of `join_fragments` one for each residue, protein after protein."""

    values: Tensor
    """(R, D)"""

    protein: Tensor
    """(R,) int64, which protein the row belongs to, from 0 without gaps."""


def fragment_starts(residues: int, size: int, overlap: int) -> list[int]:
    """Where fragments of `size` residues begin, each `overlap` before the end of the one before; the last is shorter.

    Every residue is in at least one fragment, and every fragment but the first holds a residue that the one
    before has not: a protein of exactly one fragment has no second.
    """
    assert size > overlap >= 0 and residues >= 0, (residues, size, overlap)
    return [0, *range(size - overlap, residues - overlap, size - overlap)]


def join_fragments(values_FLD: Tensor, lengths_F: Tensor, starts_F: Tensor, protein_F: Tensor) -> Joined:
    """The values of every residue, averaged over the fragments it is in.

    `lengths_F` residues of each fragment count, the rest is padding; `starts_F` is the place of its first residue
    in protein `protein_F`. Proteins are numbered from 0 without gaps. Residues that no fragment holds, as when some
    fragments of a protein are missing, are left out.
    """
    _, L, D = values_FLD.shape
    residues_P = torch.zeros(int(protein_F.max()) + 1, dtype=starts_F.dtype, device=starts_F.device)
    residues_P.scatter_reduce_(0, protein_F, starts_F + lengths_F, "amax")
    offset_P = residues_P.cumsum(0) - residues_P

    place_L = torch.arange(L, device=values_FLD.device)
    real_FL = place_L < lengths_F[:, None]
    place_FL = (offset_P[protein_F] + starts_F)[:, None] + place_L
    place, values = place_FL[real_FL], values_FLD[real_FL]

    R = int(residues_P.sum())
    sums_RD = values.new_zeros(R, D).index_add(0, place, values)
    times_R1 = values.new_zeros(R, 1).index_add(0, place, torch.ones_like(values[:, :1]))
    held_R = times_R1[:, 0] > 0
    return Joined((sums_RD / times_R1)[held_R], torch.repeat_interleave(residues_P)[held_R])


def pool_mean(joined: Joined) -> Tensor:
    """(P, D) mean over the rows of each protein: for embeddings, of residues or of whole fragments."""
    values_RD, protein_R = joined
    P = int(protein_R.max()) + 1
    counts_P = torch.bincount(protein_R, minlength=P)
    return values_RD.new_zeros(P, values_RD.shape[1]).index_add(0, protein_R, values_RD) / counts_P[:, None]


def pool_max(joined: Joined) -> Tensor:
    """(P, D) maximum over the rows of each protein: for motif logits."""
    values_RD, protein_R = joined
    lowest_PD = values_RD.new_full((int(protein_R.max()) + 1, values_RD.shape[1]), -torch.inf)
    return lowest_PD.scatter_reduce(0, protein_R[:, None].expand_as(values_RD), values_RD, "amax")
