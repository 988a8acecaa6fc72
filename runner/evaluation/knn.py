"""Nearest neighbours in the space of frozen features: nothing is trained.

Source: weighted k-nearest neighbours of Wu et al. 2018 (section 3.4).

Shapes: N training samples, M test samples, B test samples at once, D features, K neighbours, C classes.
"""

import torch
from pydantic import Field
from torch import Tensor

from runner.evaluation._probe import accuracies, count_classes, unit_rows
from runner.features import FrozenFeatures
from runner.schema import Options

CHUNK_VALUES = 2**24
"""Similarities, or votes by neighbour and class, held at once: 64 MiB."""


class Config(Options):
    k: int = Field(default=20, ge=1)
    """Neighbours that vote; all training samples where there are fewer."""

    temperature: float = Field(default=0.1, gt=0)
    """A neighbour's vote is exp(cosine similarity / temperature)."""


def run(
    config: Config, train: FrozenFeatures, test: FrozenFeatures, device: torch.device, seed: int
) -> dict[str, float]:
    """top1 and top5 accuracy on `test`; the seed is not needed.

    Memory beside the features and scores: two blocks of CHUNK_VALUES, whatever the sizes of the splits.
    """
    classes = count_classes(train, test)
    train, test = unit_rows(train, device), unit_rows(test, device)
    k = min(config.k, len(train.features))
    rows = max(1, CHUNK_VALUES // max(len(train.features), k * classes))
    scores = [
        vote(queries_BD, train, k, config.temperature, classes)
        for queries_BD in torch.split(test.features, rows)
    ]
    return accuracies(torch.cat(scores), test.labels)


def vote(queries_BD: Tensor, train: FrozenFeatures, k: int, temperature: float, classes: int) -> Tensor:
    """(B, C) summed votes of the k nearest training samples, -inf for a class without any; unit rows."""
    similarity_BK, nearest_BK = (queries_BD @ train.features.T).topk(k, dim=1)
    # Relative to the nearest, so that no temperature overflows; a common factor changes no ranking.
    votes_BK = ((similarity_BK - similarity_BK[:, :1]) / temperature).exp()
    # A product instead of scatter_add, whose order of summation on a GPU changes from run to run.
    voters_BKC = votes_BK.new_zeros(*votes_BK.shape, classes)
    voters_BKC.scatter_(2, train.labels[nearest_BK][..., None], 1)
    scores_BC = torch.bmm(votes_BK[:, None], voters_BKC)[:, 0]
    return scores_BC.masked_fill(voters_BKC.amax(dim=1) == 0, -torch.inf)
