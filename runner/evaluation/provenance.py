"""Compiler provenance: how a binary was made, read from its frozen embedding by logistic regression.

Shapes: N training samples, M test samples, D embedding width.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from runner.dataset import Records
from runner.errors import DataError
from runner.evaluation._probe import number_texts, take_embedding, take_texts
from runner.evaluation._standardise import standardise
from runner.explain import OptionError
from runner.facts import Facts
from runner.features import FrozenFeatures
from runner.schema import Options

Features = NDArray[np.float64]


class Config(Options):
    heads: tuple[str, ...] = Field(("level",), min_length=1)
    """Questions, each a text of the data set: level, compiler."""

    embedding: str = "features"
    """Which output of the method is read."""

    C: float = Field(1.0, gt=0)
    """Inverse strength of the L2 penalty, as in scikit-learn, on features standardised by the training samples."""

    max_iterations: int = Field(1000, ge=1)
    """scikit-learn warns when the solver stops here before it has converged."""


def check(config: Config, train: Facts | None, test: Facts) -> None:
    """Raises OptionError for a head that is no text of the data set or has one answer, or a missing output."""
    test.need_output("embedding", config.embedding)
    for head in config.heads:
        for facts in filter(None, (train, test)):
            facts.need_text("heads", head)
        if train is not None and isinstance(train.data, Records) and len(set(train.data.texts[head])) < 2:
            raise OptionError("heads", f'"{head}" is not allowed: all {len(train.data)} training samples have the same')


def run(
    config: Config, train: FrozenFeatures, test: FrozenFeatures, device: torch.device, seed: int
) -> dict[str, float]:
    """`HEAD_accuracy` for each head, `HEAD_majority`, and `joint_accuracy` of all heads together.

    Each head has a model of its own. The majority is the share of the test samples in the class most common in
    training; a class that training lacks is never predicted. Nothing is drawn: device and seed are not needed.

    Raises ConfigError for a head that is no text of the data set, DataError if training has one class of it.
    """
    train_ND, test_MD = standardise(*(take_embedding(split, config.embedding).cpu() for split in (train, test)))
    right_M = torch.ones(len(test_MD), dtype=torch.bool)
    found = {}
    for head in config.heads:
        labels_N, wanted_M = number_texts(take_texts(train, head), take_texts(test, head))
        counts = labels_N.bincount()
        if (counts > 0).sum() < 2:
            raise DataError(f"provenance: all {len(labels_N)} training samples have the same {head}")
        hit_M = _predict(train_ND.numpy(), labels_N, test_MD.numpy(), config) == wanted_M
        found[f"{head}_accuracy"] = hit_M.double().mean().item()
        found[f"{head}_majority"] = (wanted_M == counts.argmax()).double().mean().item()
        right_M &= hit_M
    return {**found, "joint_accuracy": right_M.double().mean().item()}


def _predict(train: Features, labels_N: Tensor, test: Features, config: Config) -> Tensor:
    from sklearn.linear_model import LogisticRegression  # heavy, and only needed here

    model = LogisticRegression(C=config.C, max_iter=config.max_iterations).fit(train, labels_N.numpy())
    return torch.from_numpy(model.predict(test))
