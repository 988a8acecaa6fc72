"""Finding what belongs to a query by cosine similarity of frozen embeddings.

Shapes: Q queries, G gallery items, B queries at once, D embedding width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from runner.errors import DataError
from runner.ranking import Ranks, rank, summarise

BLOCK_VALUES = 2**20
"""Similarities held at once; ranking them takes about twenty times their 8 MiB."""


def retrieval(
    query_QD: Tensor,
    gallery_GD: Tensor,
    query_labels_Q: Tensor,
    gallery_labels_G: Tensor,
    *,
    leave_out_self: bool = False,
    at: Sequence[int] = (1, 5, 10),
) -> dict[str, float]:
    """`map`, `mrr`, `recall_at_k`, and how many queries these are means of.

    A gallery item is a positive of the queries with its label. Queries without any positive are left out of
    every metric and counted in `queries_without_positive`. With `leave_out_self`, queries and gallery are the
    same samples, and each is ranked among the others only.

    Raises DataError if no query has a positive.
    """
    query_QD, gallery_GD = (F.normalize(x.double(), dim=1) for x in (query_QD, gallery_GD))
    rows = max(1, BLOCK_VALUES // max(1, len(gallery_GD)))
    # Small results that outlive each block's large ones would keep the allocator from using that memory again.
    ranks_2Q = query_QD.new_empty(2, len(query_QD))
    asked = 0
    for index_B in torch.split(torch.arange(len(query_QD), device=query_QD.device), rows):
        # Equal vectors must tie, and the last digits of a sum depend on the order it was taken in.
        scores_BG = (query_QD[index_B] @ gallery_GD.T).round(decimals=9)
        positive_BG = query_labels_Q[index_B, None] == gallery_labels_G
        candidate_BG = torch.ones_like(positive_BG)
        if leave_out_self:
            candidate_BG[torch.arange(len(index_B), device=index_B.device), index_B] = False
        ranks_2B = torch.stack(rank(scores_BG, positive_BG, candidate_BG))
        ranks_2Q[:, asked : asked + ranks_2B.shape[1]] = ranks_2B
        asked += ranks_2B.shape[1]
    if asked == 0:
        raise DataError(
            f"retrieval: none of {len(query_QD)} queries has its label in the gallery; choose another label"
        )
    return {**summarise(Ranks(*ranks_2Q[:, :asked]), at), "queries_without_positive": float(len(query_QD) - asked)}
