"""Tuples of one anchor, its positives and its negatives, drawn by the classes that samples share.

Samples have any number of classes. Positives share at least one with the anchor, negatives share none; hard
negatives have besides a class that lies near one of the anchor's (`runner.mining.distances`).

Every draw is a function of (seed, epoch, anchor): neither the batch nor the number of ranks changes it.

Sources: Khosla et al. 2020 (supervised contrastive learning), Yu et al. 2023 (CLEAN: hard negatives by class
distance).

Shapes: N samples of the data set, C classes, B anchors, P positives and M negatives of each, D width.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
Choices = NDArray[np.bool_]

TUPLES, ANCHORS = 1, 2
"""Words of the generator's counter that keep these draws apart from each other and from the order of samples."""


class Tuples(NamedTuple):
    """Places in the data set of the samples that B anchors are compared with."""

    anchors: Integers
    """(B,)"""

    positives: Integers
    """(B, P)"""

    negatives: Integers
    """(B, M), the hard ones first."""

    complete: Choices
    """(B,) False where every other sample shares a class with the anchor: such an anchor stands in for its own
    negatives, and its row must be left out of the loss."""

    def rows(self) -> Integers:
        """All samples in the order that `regroup` expects: anchors, positives of the first, of the second, ..."""
        return np.concatenate([self.anchors, self.positives.ravel(), self.negatives.ravel()])


def regroup(rows_RD: Tensor, positives: int, negatives: int) -> Tensor:
    """(B, 1 + P + M, D) with each anchor before its own positives and negatives, from rows as in `Tuples.rows`."""
    assert len(rows_RD) % (1 + positives + negatives) == 0, (len(rows_RD), positives, negatives)
    B = len(rows_RD) // (1 + positives + negatives)
    D = rows_RD.shape[1]
    anchors_BD, others_RD = rows_RD[:B], rows_RD[B:]
    positives_BPD = others_RD[: B * positives].reshape(B, positives, D)
    negatives_BMD = others_RD[B * positives :].reshape(B, negatives, D)
    return torch.cat([anchors_BD[:, None], positives_BPD, negatives_BMD], 1)


def draw_tuples(
    labels_NC: Choices,
    anchors_B: Integers,
    positives: int,
    negatives: int,
    *,
    seed: int,
    epoch: int,
    hardness_CC: Floats | None = None,
    weighted: bool = False,
) -> Tuples:
    """Positives and negatives of each anchor, without replacement as long as there are enough.

    Without `hardness_CC` all negatives are equally likely. With it hard negatives come first, drawn evenly or,
    if `weighted`, in proportion to `weigh_negatives`; then the other negatives fill up. Where positives or
    negatives are still too few, all of them are repeated equally often, give or take one.

    An anchor that no other sample shares a class with is its own positive: an encoder with dropout, or views
    that differ, make it a second view of the same sample. For an anchor without negatives see `complete`.
    """
    shares_BN = share_class(labels_NC, anchors_B)
    keys_BN = _draw_keys(anchors_B, len(labels_NC), seed, epoch)
    others_BN = np.arange(len(labels_NC)) != anchors_B[:, None]
    positives_BP = _take(keys_BN, shares_BN & others_BN, positives, anchors_B)

    allowed_BN = ~shares_BN & others_BN
    if hardness_CC is not None:
        weights_BN = weigh_negatives(labels_NC, anchors_B, hardness_CC)
        keys_BN = _race(keys_BN, weights_BN if weighted else (weights_BN > 0).astype(np.float64))
    negatives_BM = _take(keys_BN, allowed_BN, negatives, anchors_B)
    return Tuples(anchors_B, positives_BP, negatives_BM, allowed_BN.any(1))


def share_class(labels_NC: Choices, anchors_B: Integers) -> Choices:
    """(B, N) whether a sample has a class in common with the anchor."""
    return _count_pairs(labels_NC[anchors_B], labels_NC) > 0


def weigh_negatives(labels_NC: Choices, anchors_B: Integers, hardness_CC: Floats) -> Floats:
    """(B, N) how hard each negative is: `hardness_CC[c, d]` summed over classes c of the anchor and d of the sample.

    0 for every sample that is not hard, and for all that share a class with the anchor. Divide the columns of
    `hardness_CC` by the sizes of their classes to draw a class first and then any of its members, as CLEAN does.
    """
    assert (hardness_CC >= 0).all() and np.isfinite(hardness_CC).all()
    near_BC = labels_NC[anchors_B] @ hardness_CC
    return np.where(share_class(labels_NC, anchors_B), 0.0, _count_pairs(near_BC, labels_NC))


def hard_template(labels_BC: Choices, hardness_CC: Floats) -> Choices:
    """(B, C) the classes whose samples are hard negatives of a set of classes; never one of the set itself.

    No class at all where the near classes are all in the set: then standard negatives take their place.
    """
    return ((labels_BC @ hardness_CC) > 0) & ~labels_BC


def hard_negatives(labels_NC: Choices, anchors_B: Integers, hardness_CC: Floats) -> Choices:
    """(B, N) the samples that `draw_tuples` takes first; all negatives of an anchor whose template is empty."""
    empty_B1 = ~hard_template(labels_NC[anchors_B], hardness_CC).any(1, keepdims=True)
    standard_BN = ~share_class(labels_NC, anchors_B) & (np.arange(len(labels_NC)) != anchors_B[:, None])
    return np.where(empty_B1, standard_BN, weigh_negatives(labels_NC, anchors_B, hardness_CC) > 0)


def draw_anchors(labels_NC: Choices, samples_B: Integers, *, seed: int, epoch: int) -> Integers:
    """(B,) a random member of a random class in place of each sample: every class is as likely, as in CLEAN.

    What stands in for a sample is a function of (seed, epoch, sample). Without any class everything stays.
    """
    held_C = np.flatnonzero(labels_NC.any(0))
    anchors_B = samples_B.copy()
    for place, sample in enumerate(samples_B if len(held_C) else ()):
        philox = np.random.Philox(key=[seed, epoch], counter=[0, 0, ANCHORS, int(sample)])
        generator = np.random.Generator(philox)
        anchors_B[place] = generator.choice(np.flatnonzero(labels_NC[:, generator.choice(held_C)]))
    return anchors_B


def _draw_keys(anchors_B: Integers, samples: int, seed: int, epoch: int) -> Floats:
    """(B, N) numbers in [0, 1): each anchor's order of all samples."""
    keys_BN = np.empty((len(anchors_B), samples))
    for keys_N, anchor in zip(keys_BN, anchors_B, strict=True):
        philox = np.random.Philox(key=[seed, epoch], counter=[0, 0, TUPLES, int(anchor)])
        np.random.Generator(philox).random(out=keys_N)
    return keys_BN


def _race(keys_BN: Floats, weights_BN: Floats) -> Floats:
    """Keys below 1 for weights above 0, at or above 1 for the others, so that the smallest keys are a weighted draw.

    Source: Efraimidis and Spirakis 2006: the smallest -log(u) / w are a sample without replacement by weights w.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        waits_BN = -np.log1p(-keys_BN) / weights_BN
        return np.where(weights_BN > 0, waits_BN / (1 + waits_BN), 1 + keys_BN)


def _take(keys_BN: Floats, allowed_BN: Choices, count: int, fallback_B: Integers) -> Integers:
    """(B, count) the allowed samples with the smallest keys, repeated in turn if they are too few.

    A row that allows none gets its `fallback_B`.
    """
    keys_BN = np.where(allowed_BN, keys_BN, np.inf)
    K = min(count, keys_BN.shape[1])
    nearest_BK = np.argpartition(keys_BN, K - 1, axis=1)[:, :K] if K else np.empty((len(keys_BN), 0), np.int64)
    nearest_BK = np.take_along_axis(nearest_BK, np.take_along_axis(keys_BN, nearest_BK, 1).argsort(1), 1)
    found_B1 = allowed_BN.sum(1, keepdims=True)
    turn_BK = np.arange(count) % np.clip(found_B1, 1, max(K, 1))
    return np.where(found_B1 > 0, np.take_along_axis(nearest_BK, turn_BK, 1), fallback_B[:, None])


def _count_pairs(first_BC: NDArray[np.generic], second_NC: Choices) -> Floats:
    # In float, because NumPy multiplies integer matrices without BLAS.
    pairs_BN: Floats = first_BC.astype(np.float64) @ second_NC.T.astype(np.float64)
    return pairs_BN
