"""Compiler provenance: how a binary was made, read from its frozen embedding by logistic regression.

Shapes: N training samples, M test samples, D embedding width.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from runner.errors import DataError
from runner.tasks._standardise import standardise

Features = NDArray[np.float64]


def provenance(
    train_ND: Tensor,
    train_labels: Mapping[str, Tensor],
    test_MD: Tensor,
    test_labels: Mapping[str, Tensor],
    *,
    C: float = 1.0,
    max_iterations: int = 1000,
) -> dict[str, float]:
    """`<head>_accuracy` for each head, `<head>_majority`, and `joint_accuracy` of all heads together.

    A head is one question, such as `level` or `compiler`, with (N,) and (M,) labels; each has a model of its
    own. The majority is the share of the test samples in the class most common in training. Features are
    standardised by the training rows.

    Raises DataError if the training samples of a head are all of one class.
    """
    train, test = (x.cpu().numpy() for x in standardise(train_ND, test_MD))
    right_M = torch.ones(len(test_MD), dtype=torch.bool)
    found = {}
    for head, labels_N in train_labels.items():
        labels_N, wanted_M = labels_N.cpu(), test_labels[head].cpu()
        counts = labels_N.bincount()
        if (counts > 0).sum() < 2:
            raise DataError(f"provenance: all {len(labels_N)} training samples have the same {head}")
        hit_M = _predict(train, labels_N, test, C, max_iterations) == wanted_M
        found[f"{head}_accuracy"] = hit_M.double().mean().item()
        found[f"{head}_majority"] = (wanted_M == counts.argmax()).double().mean().item()
        right_M &= hit_M
    return {**found, "joint_accuracy": right_M.double().mean().item()}


def _predict(train: Features, labels_N: Tensor, test: Features, C: float, max_iterations: int) -> Tensor:
    from sklearn.linear_model import LogisticRegression  # heavy, and only needed here

    model = LogisticRegression(C=C, max_iter=max_iterations).fit(train, labels_N.numpy())
    return torch.from_numpy(model.predict(test))
