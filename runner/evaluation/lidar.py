"""LiDAR: how many dimensions tell samples apart once what varies between the views of a sample is divided out.

Source: Thilak et al. 2024, "LiDAR: Sensing Linear Probing Performance in Joint Embedding SSL Architectures".

Shapes: N samples, Q views of each, D features.
"""

import torch
from pydantic import Field
from torch import Tensor

from runner.explain import OptionError
from runner.facts import Facts
from runner.features import FrozenFeatures
from runner.schema import Options

FITS = False
"""Looks at the test split alone."""

KIND = "images"
"""Of which there are random views."""


class Config(Options):
    samples: int = Field(default=1000, ge=2)
    """How many samples are compared, the first of the split."""

    views: int = Field(default=50, ge=2)
    """Random views of each sample, made as in training."""

    eps: float = Field(default=1e-7, gt=0)
    """Added where a division or a logarithm could meet 0."""

    delta: float = Field(default=1e-3, gt=0)
    """Added to the variances within samples, so that they can be divided by."""


def check(config: Config, train: Facts | None, test: Facts) -> None:
    """Raises OptionError for a single sample."""
    if test.data is not None and len(test.data) < 2:
        raise OptionError("", f"compares samples, and there is {len(test.data)}; it takes at least 2")


def run(
    config: Config, train: FrozenFeatures | None, test: FrozenFeatures, device: torch.device, seed: int
) -> dict[str, float]:
    """The effective rank of the discriminant on the first `samples` of the test split."""
    return {"lidar": lidar(test.others["views"].to(device), config.eps, config.delta).item()}


@torch.no_grad()
def lidar(features_NQD: Tensor, eps: float = 1e-7, delta: float = 1e-3) -> Tensor:
    """exp(-sum p log(p + eps)) with p = l / (sum(l) + eps) of the discriminant's eigenvalues l; 0-d, no gradient.

    These are the eigenvalues of W^-1/2 B W^-1/2, where B is the covariance of the means of the samples over
    N - 1 and W the covariance of the views around their means over N (Q - 1), plus `delta`. The samples are
    the classes, not the views; there must be 2 of each. Computed in float64.
    """
    N, Q, D = features_NQD.shape
    assert N > 1 and Q > 1, (N, Q)
    features_NQD = features_NQD.double()
    means_ND = features_NQD.mean(1)
    between_ND = means_ND - means_ND.mean(0)
    within_RD = (features_NQD - means_ND[:, None]).reshape(N * Q, D)
    within_DD = within_RD.T @ within_RD / (N * (Q - 1))
    within_DD.diagonal().add_(delta)
    # With W = L L^T, L^-1 B L^-T has the same eigenvalues, and those of z^T z are the squared singular
    # values of z = between L^-T.
    L_DD = torch.linalg.cholesky(within_DD)
    z_ND = torch.linalg.solve_triangular(L_DD.T, between_ND, upper=True, left=False)
    values_K = torch.linalg.svdvals(z_ND).square() / (N - 1)
    p_K = values_K / (values_K.sum() + eps)
    return torch.exp(-(p_K * (p_K + eps).log()).sum())
