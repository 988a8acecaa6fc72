"""Logistic regression on frozen features with torch, on the training device: for sets too large for `linear`.

The same convex objective as that probe, so the same optimum, found by L-BFGS over all samples; sums go over
blocks of rows, so memory beside the features is one block of logits.

Shapes: N samples, B in a block, D features, C classes.
"""

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from runner.evaluation._probe import Labelled, accuracies, check_labels, count_classes, unit_rows
from runner.facts import Facts
from runner.features import FrozenFeatures
from runner.schema import Options

BLOCK_VALUES = 2**24
"""Logits held at once: 64 MiB, and a few times that for their gradient."""


class Config(Options):
    C: float = Field(default=100.0, gt=0)
    """Inverse strength of the L2 penalty, as in scikit-learn: the summed loss against |W|^2 / 2C."""

    max_iterations: int = Field(default=200, ge=1)
    """L-BFGS iterations at most; a small gradient ends it earlier."""


def check(config: Config, train: Facts | None, test: Facts) -> None:
    """Raises OptionError for samples without one label each, or of one class."""
    check_labels(train, test)


def run(
    config: Config, train: FrozenFeatures, test: FrozenFeatures, device: torch.device, seed: int
) -> dict[str, float]:
    """top1 and top5 accuracy on `test` of a multinomial logistic regression on L2-normalised features.

    The solver starts at zero and draws nothing: the seed is not needed.
    """
    known, unknown = unit_rows(train, device), unit_rows(test, device)
    classes = count_classes(known, unknown)
    weight_CD, bias_C = fit(known, classes, config.C, config.max_iterations)
    scores_NC = torch.addmm(bias_C, unknown.features, weight_CD.T)
    # A class that was never trained on cannot be predicted; its weights only say so by a low score.
    unseen_C = torch.bincount(known.labels, minlength=classes) == 0
    return accuracies(scores_NC.masked_fill(unseen_C, -torch.inf), unknown.labels)


def fit(train: Labelled, classes: int, C: float, max_iterations: int) -> tuple[Tensor, Tensor]:
    """Weights (C, D) and biases (C,) at the minimum of mean cross entropy + |W|^2 / (2 C N)."""
    N, D = train.features.shape
    weight_CD = train.features.new_zeros(classes, D).requires_grad_()
    bias_C = train.features.new_zeros(classes).requires_grad_()
    solver = torch.optim.LBFGS(
        [weight_CD, bias_C],
        max_iter=max_iterations,
        max_eval=2 * max_iterations,
        tolerance_grad=1e-6,
        history_size=20,
        line_search_fn="strong_wolfe",
    )
    rows = max(1, BLOCK_VALUES // classes)
    blocks = list(zip(torch.split(train.features, rows), torch.split(train.labels, rows), strict=True))

    def objective() -> float:
        solver.zero_grad()
        penalty = weight_CD.square().sum() / (2 * C * N)
        torch.autograd.backward(penalty)
        total = penalty.detach().double()
        for features_BD, labels_B in blocks:
            logits_BC = torch.addmm(bias_C, features_BD, weight_CD.T)
            loss = F.cross_entropy(logits_BC, labels_B, reduction="sum") / N
            torch.autograd.backward(loss)
            total += loss.detach()
        return float(total)

    with torch.enable_grad():
        solver.step(objective)  # type: ignore[no-untyped-call]
    return weight_CD.detach(), bias_C.detach()
