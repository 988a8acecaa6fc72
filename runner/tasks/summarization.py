"""Saying in words what a function does: the comment of the nearest training function, scored as a summary.

A baseline that writes nothing of its own: what a decoder has to beat.

Shapes: M test functions, N training comments, B at once, D embedding width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from runner.errors import DataError
from runner.text_metrics import bleu, rouge_l, split_words

BLOCK_VALUES = 2**24
"""Similarities held at once: 64 MiB."""


def summarization(
    query_MD: Tensor, references: Sequence[str], gallery_ND: Tensor, comments: Sequence[str]
) -> dict[str, float]:
    """`bleu`, `rouge_l` and `exact_match` of the nearest comments against the references.

    The gallery holds the embeddings of the training comments, or of the functions they belong to.

    Raises DataError if there are no comments to choose from.
    """
    if not comments:
        raise DataError("summarization: there are no training comments to choose from")
    nearest = nearest_rows(query_MD, gallery_ND)
    predicted = [split_words(comments[n]) for n in nearest.tolist()]
    expected = [split_words(reference) for reference in references]
    pairs = list(zip(predicted, expected, strict=True))
    return {
        "bleu": bleu(predicted, expected),
        "rouge_l": sum(rouge_l(*pair) for pair in pairs) / max(1, len(pairs)),
        "exact_match": sum(a == b for a, b in pairs) / max(1, len(pairs)),
    }


def nearest_rows(query_MD: Tensor, gallery_ND: Tensor) -> Tensor:
    """(M,) row of the gallery with the highest cosine similarity, the first of equal ones."""
    query_MD, gallery_ND = (F.normalize(x.float(), dim=1) for x in (query_MD, gallery_ND))
    rows = max(1, BLOCK_VALUES // max(1, len(gallery_ND)))
    found = [(block_BD @ gallery_ND.T).argmax(dim=1) for block_BD in torch.split(query_MD, rows)]
    return torch.cat(found)
