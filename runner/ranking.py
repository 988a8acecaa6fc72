"""How well a ranking puts first what belongs together: mAP, MRR, recall at k.

Places are counted from 1. Of items with equal scores none comes first: each counts half of the others as
before it, so that an encoder which maps everything to one point scores as chance does, not as the sort does.

Shapes: Q queries, G gallery items.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Ranks(NamedTuple):
    """What the metrics need of each query; queries without a positive are left out."""

    first: Tensor
    """(Q,) float64 place of the first positive, 1 at best."""

    average_precision: Tensor
    """(Q,) float64: precision at the place of each positive, mean over the positives."""


def rank(scores_QG: Tensor, positive_QG: Tensor, candidate_QG: Tensor | None = None) -> Ranks:
    """The gallery in the order of its scores, for each query that has a positive.

    `positive_QG` and `candidate_QG` are boolean; what is no candidate (a query itself, say) is not ranked.
    """
    candidate_QG = torch.ones_like(positive_QG) if candidate_QG is None else candidate_QG
    positive_QG = positive_QG & candidate_QG
    asked_Q = positive_QG.any(dim=1)
    scores_QG = scores_QG[asked_Q].double().masked_fill(~candidate_QG[asked_Q], -torch.inf)
    scores_QG, order_QG = scores_QG.sort(dim=1, descending=True, stable=True)
    positive_QG = positive_QG[asked_Q].gather(1, order_QG)
    negative_QG = ~positive_QG & candidate_QG[asked_Q].gather(1, order_QG)

    # 1 for itself, less the half that it counts as its own equal
    positives_QG = _count_before(positive_QG, scores_QG) + 0.5
    negatives_QG = _count_before(negative_QG, scores_QG)
    precision_QG = positives_QG / (positives_QG + negatives_QG)
    average = (precision_QG * positive_QG).sum(dim=1) / positive_QG.sum(dim=1)
    return Ranks(1 + negatives_QG.masked_fill(~positive_QG, torch.inf).amin(dim=1), average)


def _count_before(counted_QG: Tensor, sorted_QG: Tensor) -> Tensor:
    """(Q, G) how many counted items have a higher score, plus half of those with an equal one."""
    G = sorted_QG.shape[1]
    place_G = torch.arange(G, device=sorted_QG.device)
    new_QG = torch.ones_like(counted_QG)
    new_QG[:, 1:] = sorted_QG[:, 1:] != sorted_QG[:, :-1]
    first_QG = place_G.masked_fill(~new_QG, 0).cummax(dim=1).values
    ends_QG = torch.ones_like(counted_QG)
    ends_QG[:, :-1] = new_QG[:, 1:]
    last_QG = place_G.masked_fill(~ends_QG, G).flip(1).cummin(dim=1).values.flip(1)
    through_QG = counted_QG.long().cumsum(dim=1)
    above_QG = (through_QG - counted_QG.long()).gather(1, first_QG)
    return (above_QG + through_QG.gather(1, last_QG)).double() / 2


def summarise(ranks: Ranks, at: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """`mrr`, `map` and `recall_at_k`: the share of queries with a positive among the first k places.

    The number of queries is in `queries`. Without any there is no mean to take: only `queries` is given.
    """
    queries = {"queries": float(len(ranks.first))}
    if len(ranks.first) == 0:
        return queries
    found = {"mrr": ranks.first.reciprocal().mean().item(), "map": ranks.average_precision.mean().item()}
    return found | {f"recall_at_{k}": (ranks.first <= k).double().mean().item() for k in at} | queries
