"""Nearest neighbours in the space of frozen features: nothing is trained.

Source: weighted k-nearest neighbours of Wu et al. 2018 (section 3.4).

Shapes: N training samples, M test samples, B test samples at once, D features, K neighbours, C classes.
"""

import torch
from pydantic import Field
from torch import Tensor

from runner.evaluation._probe import Labelled, accuracies, check_labels, count_classes, unit_rows
from runner.facts import Facts
from runner.features import FrozenFeatures
from runner.schema import Options

CHUNK_VALUES = 2**24
"""Similarities, or votes by neighbour and class, held at once: 64 MiB."""


class Config(Options):
    k: int = Field(default=20, ge=1)
    """Neighbours that vote; all training samples where there are fewer."""

    temperature: float = Field(default=0.1, gt=0)
    """A neighbour's vote is exp(cosine similarity / temperature)."""


def check(config: Config, train: Facts | None, test: Facts) -> None:
    """Raises OptionError for samples without one label each, or of one class."""
    check_labels(train, test)


def run(
    config: Config, train: FrozenFeatures, test: FrozenFeatures, device: torch.device, seed: int
) -> dict[str, float]:
    """top1 and top5 accuracy on `test`; the seed is not needed.

    Memory beside the features and scores: two blocks of CHUNK_VALUES, whatever the sizes of the splits.
    """
    known, unknown = unit_rows(train, device), unit_rows(test, device)
    classes = count_classes(known, unknown)
    k = min(config.k, len(known.features))
    rows = max(1, CHUNK_VALUES // max(len(known.features), k * classes))
    scores = [
        vote(queries_BD, known, k, config.temperature, classes) for queries_BD in torch.split(unknown.features, rows)
    ]
    return accuracies(torch.cat(scores), unknown.labels)


def vote(queries_BD: Tensor, train: Labelled, k: int, temperature: float, classes: int) -> Tensor:
    """(B, C) logarithm of the votes of the k nearest training samples, -inf for a class without any."""
    similarity_BK, nearest_BK = (queries_BD @ train.features.T).topk(k, dim=1)
    # In logarithms no temperature overflows; unlike scatter_add, the sum has one order on a GPU, too.
    votes_BKC = similarity_BK.new_full((*similarity_BK.shape, classes), -torch.inf)
    votes_BKC.scatter_(2, train.labels[nearest_BK][..., None], similarity_BK[..., None] / temperature)
    return votes_BKC.logsumexp(dim=1)
