"""RankMe and LiDAR against golden values and their definitions."""

import math

import pytest
import torch

from runner.evaluation import FrozenFeatures, rankme
from runner.evaluation.lidar import lidar
from runner.evaluation.rankme import rankme as effective_rank
from tests.golden import load_golden

CPU = torch.device("cpu")


def orthogonal(rows, columns, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(rows, columns, generator=generator, dtype=torch.float64))[0]


def run(train, test, seed=0, **options):
    splits = [FrozenFeatures(features, torch.zeros(len(features), dtype=torch.int64)) for features in (train, test)]
    return rankme.run(rankme.Config(**options), *splits, CPU, seed)


def test_rankme_equals_the_golden_values():
    """The golden ones are over the last three batches."""
    golden = load_golden("ssl_monitors")
    limit, eps = golden["rankme_limit_eps"].tolist()
    for step, expected in enumerate(golden["rankme"].tolist()):
        batches = golden["rankme_x"][max(0, step + 1 - int(limit)) : step + 1]
        assert effective_rank(batches.flatten(0, 1), eps).item() == pytest.approx(expected, rel=1e-4)


def test_lidar_equals_the_golden_values():
    """The golden ones are over the last twelve samples."""
    golden = load_golden("ssl_monitors")
    samples, eps, delta = golden["lidar_n_eps_delta"].tolist()
    for step, expected in enumerate(golden["lidar"].tolist()):
        seen = golden["lidar_x"][: step + 1].flatten(0, 1)[-int(samples) :]
        assert lidar(seen, eps, delta).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("rank", [1, 2, 8])
def test_rankme_of_equal_singular_values_is_their_number(rank):
    features = 3 * orthogonal(50, rank) @ orthogonal(8, rank).T
    assert effective_rank(features.float()).item() == pytest.approx(rank, rel=1e-4)


def test_rankme_keeps_no_graph():
    """One reference system's monitor holds on to the graph of every batch in its queue."""
    features = torch.randn(20, 4, requires_grad=True)
    assert not effective_rank(features).requires_grad
    assert not lidar(features.view(5, 4, 4)).requires_grad


def test_rankme_of_collapsed_features():
    assert effective_rank(torch.ones(9, 4)).item() == pytest.approx(1.0, rel=1e-4)
    assert math.isfinite(effective_rank(torch.zeros(9, 4)).item())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rankme_is_float32_inside_autocast(dtype):
    features = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=dtype):
        assert effective_rank(features.to(dtype)).item() == pytest.approx(effective_rank(features).item(), rel=1e-2)


def test_rankme_draws_samples_by_the_seed():
    features = torch.randn(200, 8)
    drawn = [run(features, features, seed=seed, max_samples=50)["rankme"] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert run(features, features, max_samples=200) == run(features, features)


def test_lidar_equals_the_eigenvalues_of_the_formula():
    """With the symmetric root of the matrix within, by eigenvectors."""
    x = torch.randn(9, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x + 2 * torch.randn(9, 1, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    means = x.mean(1)
    between = torch.cov(means.T)
    within = sum((row - mean).outer(row - mean) for rows, mean in zip(x, means, strict=True) for row in rows)
    within = within / (9 * 3) + 1e-3 * torch.eye(6)
    values, vectors = torch.linalg.eigh(within)
    root = vectors @ torch.diag(values**-0.5) @ vectors.T
    eigenvalues = torch.linalg.eigvalsh(root @ between @ root)
    p = eigenvalues / (eigenvalues.sum() + 1e-7)
    assert lidar(x).item() == pytest.approx(math.exp(-sum(p * (p + 1e-7).log())), rel=1e-9)


def test_lidar_compares_samples_not_views():
    """One reference system takes the views for the classes, and reads 1 whatever the features do."""
    signal = 10 * torch.randn(200, 1, 8, generator=torch.Generator().manual_seed(0))
    views = signal + 0.1 * torch.randn(200, 2, 8, generator=torch.Generator().manual_seed(1))
    assert lidar(views) > 7.5
    assert lidar(views.transpose(0, 1)) < 1.1


def test_lidar_of_more_dimensions_than_samples_is_at_most_their_number():
    views = torch.randn(5, 3, 32, generator=torch.Generator().manual_seed(0))
    assert 1 <= lidar(views) <= 4 + 1e-3


def test_lidar_needs_two_samples_and_two_views():
    for shape in ((1, 4, 3), (4, 1, 3)):
        with pytest.raises(AssertionError):
            lidar(torch.randn(shape))
