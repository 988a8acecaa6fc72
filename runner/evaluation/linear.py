"""Logistic regression on frozen features with scikit-learn, on the CPU: the reference for sets that fit it.

Shapes: N samples, C classes.
"""

import torch
from pydantic import Field

from runner.evaluation._probe import accuracies, check_labels, count_classes, unit_rows
from runner.facts import Facts
from runner.features import FrozenFeatures
from runner.schema import Options

CPU = torch.device("cpu")


class Config(Options):
    C: float = Field(default=100.0, gt=0)
    """Inverse strength of the L2 penalty, as in scikit-learn: the summed loss against |W|^2 / 2C."""

    max_iterations: int = Field(default=1000, ge=1)
    """scikit-learn warns when the solver stops here before it has converged."""


def check(config: Config, train: Facts | None, test: Facts) -> None:
    """Raises OptionError for samples without one label each, or of one class."""
    check_labels(train, test)


def run(
    config: Config, train: FrozenFeatures, test: FrozenFeatures, device: torch.device, seed: int
) -> dict[str, float]:
    """top1 and top5 accuracy on `test` of a multinomial logistic regression on L2-normalised features.

    The solver (L-BFGS to a fixed tolerance) draws nothing: device and seed are not needed.
    """
    from sklearn.linear_model import LogisticRegression  # heavy, and only needed here

    known, unknown = unit_rows(train, CPU), unit_rows(test, CPU)
    classes = count_classes(known, unknown)
    model = LogisticRegression(C=config.C, max_iter=config.max_iterations)
    model.fit(known.features.numpy(), known.labels.numpy())
    scores_NC = torch.full((len(unknown.labels), classes), -torch.inf, dtype=torch.float64)
    scores_NC[:, torch.from_numpy(model.classes_)] = torch.from_numpy(
        model.predict_log_proba(unknown.features.numpy())
    ).double()
    return accuracies(scores_NC, unknown.labels)
