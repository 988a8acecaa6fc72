"""Finding what belongs to a query by cosine similarity of frozen embeddings, across modalities or within one.

Shapes: N samples, Q queries, G gallery items, B queries at once, D embedding width.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from runner.dataset import Records, Split
from runner.errors import DataError
from runner.evaluation._probe import number_texts, take_embedding, take_texts
from runner.explain import OptionError
from runner.facts import Facts
from runner.features import FrozenFeatures
from runner.ranking import Ranks, rank, summarise
from runner.schema import Options

FITS = False
"""Looks at the test split alone."""

BLOCK_VALUES = 2**20
"""Similarities held at once; ranking them takes about twenty times their 8 MiB."""


class Config(Options):
    pairs: tuple[tuple[str, str], ...] = Field((("features", "features"),), min_length=1)
    """Queries and what they are looked for in, by the names of the method's outputs, such as [comment, binary].
    Twice the same: every sample is ranked among the others."""

    label: str | None = None
    """What makes samples belong together: a text of the data set, such as package. None: its labels."""

    pool: int | None = Field(None, ge=2)
    """Rank so many samples, whatever the seed the same random ones; None or more than there are: all."""

    at: tuple[Annotated[int, Field(ge=1)], ...] = (1, 5, 10)
    """Recall among the first so many places."""


def check(config: Config, train: Facts | None, test: Facts) -> None:
    """Raises OptionError for an output or a text that is missing, or labels of which none is found twice."""
    for name in (name for pair in config.pairs for name in pair):
        test.need_output("pairs", name)
    if config.label is not None:
        test.need_text("label", config.label)
    elif test.labels in ("none", "several"):
        problem = f"is missing: these samples have {test.labels} of their own; choose a text of theirs"
        raise OptionError("label", problem)
    if test.data is not None and (alone := [pair for pair in config.pairs if pair[0] == pair[1]]):
        labels_N = _label_numbers(test.data, config.label)
        if len(set(labels_N.tolist())) == len(labels_N):
            problem = f"[{', '.join(alone[0])}] is not allowed: no label of the {len(labels_N)} samples is found twice"
            raise OptionError("pairs", f"{problem}; set label, or pair two columns")
        columns = test.data.columns if isinstance(test.data, Records) else {}
        for name, _ in alone:
            if name in columns and _copies(columns[name], labels_N):
                problem = f"[{name}, {name}] is not allowed: all samples with one label have the same {name}"
                raise OptionError("pairs", f"{problem}, so each finds its copy; set label, or pair two columns")


def run(
    config: Config, train: FrozenFeatures | None, test: FrozenFeatures, device: torch.device, seed: int
) -> dict[str, float]:
    """`mrr`, `map`, `recall_at_k` and the number of `queries`, of each pair as QUERY_to_GALLERY_*.

    Raises ConfigError for an output or a text that is missing, DataError for labels that tell nothing.
    """
    chosen_N = draw_pool(len(test.features), config.pool)
    labels_N = _labels(test, config.label)[chosen_N].to(device)
    found: dict[str, float] = {}
    for query, gallery in config.pairs:
        query_QD, gallery_GD = (take_embedding(test, name)[chosen_N].to(device) for name in (query, gallery))
        metrics = retrieval(query_QD, gallery_GD, labels_N, labels_N, leave_out_self=query == gallery, at=config.at)
        found |= {f"{query}_to_{gallery}_{name}": value for name, value in metrics.items()}
    return found


def draw_pool(samples: int, pool: int | None) -> Tensor:
    """(N,) the samples that are ranked, in order."""
    order_N = torch.randperm(samples, generator=torch.Generator().manual_seed(0))
    return order_N[:pool].sort().values


def _copies(column_N: Tensor, labels_N: Tensor) -> bool:
    """Whether the rows of a label are equal throughout, so that to find one among the others says nothing."""
    rows = {(label, bytes(row)) for label, row in zip(labels_N.tolist(), column_N.cpu().numpy(), strict=True)}
    return len(rows) == len(set(labels_N.tolist()))


def _label_numbers(data: Split, name: str | None) -> Tensor:
    if name is not None:
        assert isinstance(data, Records)
        return number_texts(data.texts[name])[0]
    assert data.labels is not None
    return data.labels


def _labels(test: FrozenFeatures, name: str | None) -> Tensor:
    if name is not None:
        return number_texts(take_texts(test, name))[0]
    if test.labels is None or test.labels.ndim != 1:
        raise DataError("retrieval: these samples have not one label each; choose a text of theirs by `label`")
    return test.labels.cpu()


def retrieval(
    query_QD: Tensor,
    gallery_GD: Tensor,
    query_labels_Q: Tensor,
    gallery_labels_G: Tensor,
    *,
    leave_out_self: bool = False,
    at: Sequence[int] = (1, 5, 10),
) -> dict[str, float]:
    """`mrr`, `map`, `recall_at_k`, and how many `queries` these are means of.

    A gallery item is a positive of the queries with its label. Queries without any positive are left out of
    every metric. With `leave_out_self`, queries and gallery are the same samples, and each is ranked among the
    others only.

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
    return summarise(Ranks(*ranks_2Q[:, :asked]), at)
