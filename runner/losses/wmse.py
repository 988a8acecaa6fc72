"""W-MSE: views agree after their batch was whitened, which leaves no way to collapse.

Ermolov et al. 2021, "Whitening for Self-Supervised Representation Learning".

Shapes: B samples on this rank, N on all ranks, V views, D width, S samples that are whitened together.
"""

from itertools import combinations

import torch
from torch import Tensor

from runner.errors import ConfigError
from runner.gather import gather
from runner.group import Group
from runner.losses.rows import full_precision
from runner.losses.similarity import unit_rows


def wmse(
    x_BVD: Tensor, group: Group, *, sub_batch: int | None = None, order_N: Tensor | None = None, eps: float = 0.0
) -> Tensor:
    """Squared distance of the whitened views of a sample, rows of length 1: mean over samples and pairs of views.

    Each view is whitened by itself, over the rows of all ranks. With `sub_batch` the samples are cut into
    pieces of at least so many, alike for all views, and each piece is whitened by itself. Pieces are
    consecutive rows of all ranks, after the permutation `order_N` where there is one, which must be the same
    on every rank; the mean over several orders is the paper's repeated slicing.

    For `eps` see `whiten`, also for what is raised.
    """
    V = x_BVD.shape[1]
    assert V > 1, x_BVD.shape
    with torch.autocast(x_BVD.device.type, enabled=False):
        x_NVD = gather(full_precision(x_BVD), group)
        if order_N is not None:
            x_NVD = x_NVD[order_N]
        pieces = max(1, len(x_NVD) // sub_batch) if sub_batch else 1
        z_VND = torch.cat([whiten(x_SVD.transpose(0, 1), eps) for x_SVD in x_NVD.tensor_split(pieces)], 1)
        z_VND = unit_rows(z_VND)
        distances = [(z_VND[v] - z_VND[w]).square().sum(1).mean() for v, w in combinations(range(V), 2)]
        return torch.stack(distances).mean()


def whiten(x_VSD: Tensor, eps: float = 0.0) -> Tensor:
    """Rows with mean 0 and covariance 1: (x - mean) L^-T with L the Cholesky factor of the covariance over S - 1.

    With `eps` the covariance is (1 - eps) of itself plus eps of the identity. Each of V sets by itself, float32
    or float64. nan where the covariance is not positive definite; nothing waits for the device.

    Raises ConfigError without `eps` when there are no more rows than dimensions, whose covariance is singular.
    """
    S, D = x_VSD.shape[1:]
    if S <= D and not eps:
        problem = f"whitening {D} dimensions needs more than {D} rows, or an eps above 0; got {S} rows"
        raise ConfigError(f"train.batch_size: {problem}")
    x_VSD = x_VSD - x_VSD.mean(1, keepdim=True)
    covariance_VDD = x_VSD.mT @ x_VSD / (S - 1)
    if eps:
        covariance_VDD = (1 - eps) * covariance_VDD + eps * torch.eye(D, dtype=x_VSD.dtype, device=x_VSD.device)
    L_VDD, failed_V = torch.linalg.cholesky_ex(covariance_VDD)
    L_VDD = L_VDD.masked_fill(failed_V[:, None, None] > 0, torch.nan)
    whitened_VSD: Tensor = torch.linalg.solve_triangular(L_VDD.mT, x_VSD, upper=True, left=False)
    return whitened_VSD
