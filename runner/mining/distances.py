"""How far classes lie from each other, from a file or from embeddings, and which of them are hard negatives.

Sources: Yu et al. 2023 (CLEAN): class centres and the nearest classes, weighted by the inverse distance.

Shapes: N samples, C classes, D width, K near classes.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from runner.errors import DataError
from runner.strict_yaml import is_number

Floats = NDArray[np.float64]


def read_distances(path: Path, classes: Sequence[str]) -> Floats:
    """(C, C) symmetric distances from a JSON file {class: {class: distance}}, in the order of `classes`.

    Raises DataError, one line, if the file is missing or broken, or lacks a class.
    """
    try:
        content = json.loads(path.read_text())
        rows = [[_number(content, path, row, column) for column in classes] for row in classes]
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}") from None
    distances_CC = np.array(rows, np.float64).reshape(len(classes), len(classes))
    if not np.allclose(distances_CC, distances_CC.T, rtol=1e-4, atol=1e-6):
        row, column = (
            classes[index] for index in np.argwhere(~np.isclose(distances_CC, distances_CC.T, 1e-4, 1e-6))[0]
        )
        raise DataError(f"{path}: from {row} to {column} is not as far as from {column} to {row}")
    return distances_CC


def class_centres(embeddings_ND: Tensor, labels_NC: Tensor) -> Tensor:
    """(C, D) mean embedding of the members of each class, in float64; nan for a class without any.

    On several ranks give it the embeddings of all, gathered, from a model in evaluation mode.
    """
    members_NC = labels_NC.to(torch.float64)
    return members_NC.T @ embeddings_ND.detach().to(torch.float64) / members_NC.sum(0)[:, None]


def centre_distances(centres_CD: Tensor, *, unit: bool = False) -> Tensor:
    """(C, C) Euclidean distances, or with `unit` the squared ones of the centres scaled to length 1.

    A class without a centre is infinitely far from every other.
    """
    if unit:
        centres_CD = F.normalize(centres_CD, dim=1)
    # Not by way of matrix products: they leave distances of about 1e-8 between centres that are equal.
    distances_CC = torch.cdist(centres_CD, centres_CD, compute_mode="donot_use_mm_for_euclid_dist")
    distances_CC = (distances_CC.square() if unit else distances_CC).nan_to_num(nan=torch.inf)
    return distances_CC.fill_diagonal_(0.0)


def near_classes(distances_CC: Floats, k: int = 1) -> tuple[NDArray[np.int64], Floats]:
    """(C, K) the k nearest other classes and their weights 1/distance, of sum 1.

    Classes at distance 0 are no neighbours, nor are those infinitely far; where that leaves fewer than k, the
    rest of the row is -1 with weight 0. Of equal distances the first class comes first.
    """
    order_CK = distances_CC.argsort(axis=1, kind="stable")
    usable_CC = (distances_CC > 0) & np.isfinite(distances_CC)
    usable_CK = np.take_along_axis(usable_CC, order_CK, 1)
    # A second stable sort brings the neighbours before the rest.
    rank_CK = (~usable_CK).argsort(axis=1, kind="stable")[:, :k]
    found_CK = np.take_along_axis(usable_CK, rank_CK, 1)
    near_CK = np.take_along_axis(order_CK, rank_CK, 1)
    inverse_CK = found_CK / np.where(found_CK, np.take_along_axis(distances_CC, near_CK, 1), 1.0)
    total_C1 = inverse_CK.sum(1, keepdims=True)
    return np.where(found_CK, near_CK, -1), inverse_CK / np.where(total_C1 > 0, total_C1, 1.0)


def hardness(distances_CC: Floats, k: int = 1) -> Floats:
    """(C, C) row c has the weights of the k classes nearest to c, 0 elsewhere: what tuples are drawn by.

    With k = 1 a class is hard (1) or not (0), as in MUTarget; CLEAN takes 100 for SupCon-Hard, 30 for triplets.
    """
    near_CK, weights_CK = near_classes(distances_CC, k)
    hardness_CC = np.zeros_like(distances_CC)
    rows_C1 = np.arange(len(distances_CC))[:, None]
    # Padding points at the last class with weight 0, which adds nothing.
    np.add.at(hardness_CC, (rows_C1, near_CK), weights_CK)
    return hardness_CC


def _number(content: Any, path: Path, row: str, column: str) -> float:
    try:
        value = content[row][column]
    except (KeyError, TypeError):
        raise DataError(f"{path}: has no distance from {row} to {column}") from None
    if not is_number(value) or not 0 <= value < float("inf"):
        raise DataError(f"{path}: from {row} to {column} is {value!r}, should be a number of at least 0")
    return float(value)
