"""Classes by the distance to their centres in the space of frozen features, called in CLEAN's two ways.

Shapes: N samples, C classes.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from runner.errors import ConfigError
from runner.evaluation._class_calls import (
    Choices,
    call_by_p_value,
    call_metrics,
    call_scores,
    distances_to_centres,
    draw_random_rows,
    max_separation,
)
from runner.evaluation._probe import class_matrices
from runner.evaluation._proteins import pool_proteins
from runner.facts import Facts
from runner.features import FrozenFeatures
from runner.mining.distances import class_centres
from runner.schema import Options


class Config(Options):
    p_value: float = Field(default=1e-5, ge=0, lt=1)
    """A class is called if at most this share of random training samples lies nearer to its centre."""

    random_samples: int = Field(default=20_000, ge=1)
    """Random training samples, each class equally likely."""

    space: Literal["features", "projections"] = "features"
    """Where distances are measured: in the encoder's features, or, as CLEAN, behind the projection of the method."""


def check(config: Config, train: Facts | None, test: Facts) -> None:
    """Raises OptionError for samples without labels, or projections of a method that has none."""
    for facts in filter(None, (train, test)):
        facts.need_labels()
    test.need_classes_of(train)
    test.need_output("space", config.space)


def run(
    config: Config, train: FrozenFeatures, test: FrozenFeatures, device: torch.device, seed: int
) -> dict[str, float]:
    """Weighted precision, recall, f1 and auroc on `test`, as separation_* and p_value_*; fragments are one protein.

    Raises ConfigError for projections of a method that has none.
    """
    train, test = pool_proteins(train), pool_proteins(test)
    known_NC, wanted_NC = class_matrices(train, test)
    train_ND, test_ND = (_embeddings(split, config.space) for split in (train, test))
    centres_CD = class_centres(train_ND, torch.from_numpy(known_NC))
    distances_NC = distances_to_centres(test_ND, centres_CD)
    random_RC = distances_to_centres(train_ND[draw_random_rows(known_NC, config.random_samples, seed=seed)], centres_CD)
    ways: dict[str, Choices] = {
        "separation": max_separation(distances_NC),
        "p_value": call_by_p_value(distances_NC, random_RC, config.p_value),
    }
    return {
        f"{way}_{name}": value
        for way, calls_NC in ways.items()
        for name, value in call_metrics(calls_NC, call_scores(distances_NC, calls_NC), wanted_NC).items()
    }


def _embeddings(split: FrozenFeatures, space: str) -> Tensor:
    if space == "features":
        return split.features.cpu()
    if space not in split.others:
        raise ConfigError("evaluate.probes: class_calls on projections needs a method that gives them; use features")
    return split.others[space].cpu()
