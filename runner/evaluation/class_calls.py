"""Classes by the distance to their centres in the space of frozen features, called in CLEAN's two ways.

Shapes: N samples, C classes.
"""

import torch
from pydantic import Field

from runner.evaluation._class_calls import (
    Choices,
    call_by_p_value,
    call_metrics,
    call_scores,
    distances_to_centres,
    draw_random_rows,
    max_separation,
)
from runner.evaluation._probe import class_matrix
from runner.features import FrozenFeatures
from runner.mining.distances import class_centres
from runner.schema import Options


class Config(Options):
    p_value: float = Field(default=1e-5, ge=0, lt=1)
    """A class is called if at most this share of random training samples lies nearer to its centre."""

    random_samples: int = Field(default=20_000, ge=1)
    """Random training samples, each class equally likely."""


def run(
    config: Config, train: FrozenFeatures, test: FrozenFeatures, device: torch.device, seed: int
) -> dict[str, float]:
    """Weighted precision, recall, f1 and auroc on `test`, as separation_* and p_value_*."""
    known_NC, wanted_NC = class_matrix(train.labels, test.labels)
    centres_CD = class_centres(train.features.cpu(), torch.from_numpy(known_NC))
    distances_NC = distances_to_centres(test.features, centres_CD)
    random_RC = distances_to_centres(train.features, centres_CD)[
        draw_random_rows(known_NC, config.random_samples, seed=seed)
    ]
    ways: dict[str, Choices] = {
        "separation": max_separation(distances_NC),
        "p_value": call_by_p_value(distances_NC, random_RC, config.p_value),
    }
    return {
        f"{way}_{name}": value
        for way, calls_NC in ways.items()
        for name, value in call_metrics(calls_NC, call_scores(distances_NC, calls_NC), wanted_NC).items()
    }
