"""Canonical correlations: what the views share is found, and nothing that belongs to one of them."""

import pytest
import torch

from runner.canonical import find_canonical_maps

SAMPLES = 4000


def make_views(*widths, shared=2, seed=0):
    """Views that mix the same `shared` numbers with noise of their own by a random matrix, around a mean."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(SAMPLES, shared, generator=generator)
    views = []
    for width in widths:
        own = torch.randn(SAMPLES, width - shared, generator=generator)
        mixing = torch.randn(width, width, generator=generator, dtype=torch.float64)
        views.append(torch.cat([common, own], dim=1).double() @ mixing + torch.arange(width))
    return common.double(), views


def apply(maps, views):
    return [view @ found.weight.T + found.bias for found, view in zip(maps, views, strict=True)]


def test_views_agree_in_what_they_share():
    common, views = make_views(5, 7, 4)
    mapped = apply(find_canonical_maps(views, 2, 0.0), views)
    torch.testing.assert_close(mapped[0], mapped[1], rtol=0, atol=0.1)
    torch.testing.assert_close(mapped[0], mapped[2], rtol=0, atol=0.1)
    left = common - mapped[0] @ torch.linalg.lstsq(mapped[0], common).solution
    assert left.square().mean() < 0.01, "the two dimensions are those that were shared"


def test_what_is_mapped_is_centred_and_of_size_one():
    _, views = make_views(5, 7)
    for view in apply(find_canonical_maps(views, 4, 0.5), views):
        assert view.mean(dim=0).abs().max() < 1e-9
        assert view.square().mean().item() == pytest.approx(1)


def test_two_views_give_the_canonical_correlations():
    """Their singular values of whitened cross-covariance, computed the textbook way."""
    _, (x, y) = make_views(4, 5)
    mapped = apply(find_canonical_maps([x, y], 3, 0.0), [x, y])
    found = [torch.corrcoef(torch.stack([a, b]))[0, 1].item() for a, b in zip(mapped[0].T, mapped[1].T, strict=True)]
    cholesky = [torch.linalg.cholesky(torch.cov(view.T)) for view in (x, y)]
    cross = torch.cov(torch.cat([x, y], dim=1).T)[:4, 4:]
    white = torch.linalg.solve(cholesky[0], cross) @ torch.linalg.inv(cholesky[1]).T
    assert found == pytest.approx(torch.linalg.svdvals(white)[:3].tolist(), abs=1e-6)


def test_a_direction_without_variance_and_dimensions_beyond_the_views_are_0():
    _, views = make_views(4, 3)
    views[0] = torch.cat([views[0], torch.full((SAMPLES, 1), 3.0)], dim=1)
    for shrinkage in (0.0, 1.0):
        maps = find_canonical_maps(views, 12, shrinkage)
        assert all(found.weight.isfinite().all() and (found.weight[8:] == 0).all() for found in maps)
        assert maps[0].weight[:, 4].abs().max() < 1e-6
