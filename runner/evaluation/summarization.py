"""Saying in words what a function does: the comment of the nearest training function, scored as a summary.

A baseline that writes nothing of its own: what a decoder has to beat.

Shapes: M test functions, N training comments, B at once, D embedding width.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from runner.evaluation._probe import take_embedding, take_texts
from runner.facts import Facts
from runner.features import FrozenFeatures
from runner.schema import Options
from runner.text_metrics import bleu, rouge_l, split_words

BLOCK_VALUES = 2**24
"""Similarities held at once: 64 MiB."""


class Config(Options):
    query: str = "binary"
    """Which output of the method asks."""

    gallery: str = "comment"
    """Which one of the training samples answers: their comments, or the functions these belong to."""

    text: str = "comment"
    """Which text of the data set is the summary."""


def check(config: Config, train: Facts | None, test: Facts) -> None:
    """Raises OptionError for a missing output or text."""
    test.need_output("query", config.query)
    test.need_output("gallery", config.gallery)
    for facts in filter(None, (train, test)):
        facts.need_text("text", config.text)


def run(
    config: Config, train: FrozenFeatures, test: FrozenFeatures, device: torch.device, seed: int
) -> dict[str, float]:
    """`bleu`, `rouge_l` and `exact_match` of the nearest training summaries; the seed is not needed.

    Raises ConfigError for an output of the method or a text of the data that is missing.
    """
    summaries = take_texts(train, config.text)
    query_MD, gallery_ND = take_embedding(test, config.query), take_embedding(train, config.gallery)
    nearest = nearest_rows(query_MD.to(device), gallery_ND.to(device))
    predicted = [split_words(summaries[n]) for n in nearest.tolist()]
    expected = [split_words(reference) for reference in take_texts(test, config.text)]
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
