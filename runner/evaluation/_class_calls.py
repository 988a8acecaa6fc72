"""Which classes an embedding belongs to, by its distances to the class centres: CLEAN's two ways of deciding.

Source: Yu et al. 2023, "Enzyme function prediction using contrastive learning" (maximum separation, p-value).

Shapes: N samples to call classes for, R random samples, C classes, D width, K nearest classes.
"""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]
Choices = NDArray[np.bool_]
Rule = Literal["first", "last", "largest"]

NEAREST = 10
"""Classes that are considered, and how often the farthest of them counts in the mean that separation is from."""

MOST_CALLS = 5
RANDOM_ROWS = 3
"""Word of the generator's counter that keeps these draws apart from all others."""


def distances_to_centres(embeddings_ND: Tensor, centres_CD: Tensor) -> Floats:
    """(N, C) Euclidean distances; infinite to a class without a centre (nan)."""
    rows = embeddings_ND.detach().to(torch.float64).cpu(), centres_CD.detach().to(torch.float64).cpu()
    distances_NC: Floats = torch.cdist(*rows).nan_to_num(nan=torch.inf).numpy()
    return distances_NC


def max_separation(distances_NC: Floats, rule: Rule = "first") -> Choices:
    """(N, C) the classes that stand out: the nearest ones, up to a jump in how far they are from the others.

    With d the distances to the 10 nearest classes and g the mean of d_2 ... d_10 and ten times d_10, the separation
    of a class is |d - g|. The jumps between neighbours that exceed the mean jump are cuts; the `first` one (or the
    `last`, or the `largest` jump of all) is where the calls end. More than five calls are no decision: then, as
    where all distances are equal, the nearest class alone is called.
    """
    usable_C = np.isfinite(distances_NC).all(0)
    calls_NC = np.zeros(distances_NC.shape, bool)
    calls_NC[:, usable_C] = _call_nearest(distances_NC[:, usable_C], rule)
    return calls_NC


def _call_nearest(distances_NC: Floats, rule: Rule) -> Choices:
    order_NK = distances_NC.argsort(axis=1, kind="stable")[:, :NEAREST]
    last_N = find_cut(np.take_along_axis(distances_NC, order_NK, 1), rule)
    calls_NC = np.zeros(distances_NC.shape, bool)
    np.put_along_axis(calls_NC, order_NK, np.arange(order_NK.shape[1]) <= last_N[:, None], 1)
    return calls_NC


def find_cut(sorted_NK: Floats, rule: Rule = "first") -> NDArray[np.int64]:
    """(N,) place of the last class that is called among the nearest ones, whose distances rise along a row."""
    K = sorted_NK.shape[1]
    if K < 2:
        return np.zeros(len(sorted_NK), np.int64)
    centre_N1 = (sorted_NK[:, 1:].sum(1, keepdims=True) + NEAREST * sorted_NK[:, -1:]) / (K - 1 + NEAREST)
    jumps_NK = np.abs(np.diff(np.abs(sorted_NK - centre_N1), axis=1))
    large_NK = jumps_NK > jumps_NK.mean(1, keepdims=True)
    cut_N = {
        "first": large_NK.argmax(1),
        "last": K - 2 - large_NK[:, ::-1].argmax(1),
        "largest": jumps_NK.argmax(1),
    }[rule]
    return np.where(large_NK.any(1) & (cut_N < MOST_CALLS), cut_N, 0)


def p_values(distances_NC: Floats, random_RC: Floats) -> Floats:
    """(N, C) share of the random samples that lie nearer to the centre of the class."""
    ranks = [
        np.searchsorted(np.sort(random_R), distances_N)
        for random_R, distances_N in zip(random_RC.T, distances_NC.T, strict=True)
    ]
    return np.stack(ranks, 1) / len(random_RC)


def call_by_p_value(distances_NC: Floats, random_RC: Floats, threshold: float = 1e-5) -> Choices:
    """(N, C) the classes with a p-value up to the threshold; of the others, only the nearest class.

    With fewer than 1/threshold random samples a class is called if none of them lies nearer to its centre.
    """
    calls_NC = (p_values(distances_NC, random_RC) <= threshold) & np.isfinite(distances_NC)
    calls_NC[np.arange(len(calls_NC)), distances_NC.argmin(1)] = True
    return calls_NC


def draw_random_rows(labels_NC: Choices, count: int, *, seed: int, by_class: bool = True) -> NDArray[np.int64]:
    """(count,) samples with replacement: each class equally likely and then each of its members, or all samples."""
    generator = np.random.Generator(np.random.Philox(key=[seed, 0], counter=[0, 0, RANDOM_ROWS, 0]))
    sizes_C = labels_NC.sum(0)
    if not by_class or not sizes_C.any():
        return generator.integers(len(labels_NC), size=count)
    members, first_C = labels_NC.T.nonzero()[1], sizes_C.cumsum() - sizes_C
    chosen = generator.choice(np.flatnonzero(sizes_C), count)
    rows: NDArray[np.int64] = members[first_C[chosen] + generator.integers(sizes_C[chosen])]
    return rows


def call_scores(distances_NC: Floats, calls_NC: Choices) -> Floats:
    """(N, C) tanh(1 / 2d) of the classes that are called, scaled to sum 1; 0 for the others."""
    with np.errstate(divide="ignore"):
        scores_NC = np.where(calls_NC, np.tanh(0.5 / distances_NC), 0.0)
    shares_NC: Floats = scores_NC / scores_NC.sum(1, keepdims=True)
    return shares_NC


def call_metrics(calls_NC: Choices, scores_NC: Floats, labels_NC: Choices) -> dict[str, float]:
    """precision, recall, f1 and auroc of the classes, weighted by their numbers of positives, as CLEAN reports them.

    auroc is over the classes that have both positives and negatives, and missing if none has.
    """
    from sklearn.metrics import precision_recall_fscore_support, roc_auc_score  # heavy, and only needed here

    values = precision_recall_fscore_support(labels_NC, calls_NC, average="weighted", zero_division=0)
    found = dict(zip(("precision", "recall", "f1"), map(float, values[:3]), strict=True))
    both_C = labels_NC.any(0) & ~labels_NC.all(0)
    if both_C.any():
        areas = [roc_auc_score(labels_NC[:, c], scores_NC[:, c]) for c in np.flatnonzero(both_C)]
        found["auroc"] = float(np.average(areas, weights=labels_NC[:, both_C].sum(0)))
    return found
