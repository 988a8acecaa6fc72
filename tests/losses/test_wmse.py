"""W-MSE against a whitening by eigenvectors, what whitening means, finite differences and float32."""

import pytest
import torch
from torch.nn import functional as F

from runner.errors import ConfigError
from runner.group import Group
from runner.losses.wmse import whiten, wmse
from tests.losses.test_sigmoid import close, gradients, leaf

ALONE = Group()


def random_views(samples=40, views=2, width=6, dtype=torch.float64, seed=0):
    """Views that resemble each other, with correlated dimensions of different scale."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, dtype=torch.float64, generator=generator)
    shared = torch.randn(samples, 1, width, dtype=torch.float64, generator=generator)
    own = torch.randn(samples, views, width, dtype=torch.float64, generator=generator)
    return leaf(((shared + 0.4 * own) @ mix + 3).to(dtype))


def naive(x):
    """Two views whitened row by row with the inverse of the Cholesky factor."""
    whitened = []
    for view in x.unbind(1):
        inverse = torch.linalg.inv(torch.linalg.cholesky(torch.cov(view.T)))
        whitened.append(torch.stack([inverse @ (row - view.mean(0)) for row in view]))
    return (2 - 2 * F.cosine_similarity(*whitened)).mean()


def test_whitened_rows_have_mean_zero_and_covariance_one():
    z = whiten(random_views(views=3).detach().transpose(0, 1))
    for view in z:
        close(view.mean(0), torch.zeros(6), rtol=0, atol=1e-12)
        close(torch.cov(view.T), torch.eye(6), rtol=0, atol=1e-12)


def test_lengths_are_those_of_any_whitening():
    """Whitenings differ by a rotation: (x - mean)^T covariance^-1 (x - mean) is common to all."""
    (view,) = random_views(views=1).detach().transpose(0, 1)
    centred = view - view.mean(0)
    expected = torch.einsum("nd,de,ne->n", centred, torch.linalg.inv(torch.cov(view.T)), centred)
    close(whiten(view[None])[0].square().sum(1), expected, rtol=1e-10, atol=0)


def test_equals_the_naive_loss():
    x = random_views()
    expected = naive(x)
    loss = wmse(x, ALONE)
    close(loss, expected.detach(), rtol=1e-12, atol=0)
    close(gradients(loss, [x])[0], gradients(expected, [x])[0], rtol=1e-9, atol=1e-14)


def test_pieces_are_whitened_by_themselves_and_none_is_too_small():
    x = random_views(samples=43)
    order = torch.randperm(43, generator=torch.Generator().manual_seed(1))
    pieces = [x[order[:15]], x[order[15:29]], x[order[29:]]]
    expected = sum(len(piece) * naive(piece) for piece in pieces) / 43
    close(wmse(x, ALONE, sub_batch=14, order_N=order), expected.detach(), rtol=1e-12, atol=0)
    close(wmse(x, ALONE, sub_batch=22), wmse(x, ALONE).detach(), rtol=1e-12, atol=0)


def test_more_views_are_the_mean_over_their_pairs():
    x = random_views(views=3)
    pairs = [naive(x[:, pair]) for pair in ([0, 1], [0, 2], [1, 2])]
    close(wmse(x, ALONE), (sum(pairs) / 3).detach(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("options", [{}, {"sub_batch": 6}, {"eps": 0.1}], ids=str)
def test_gradcheck(options):
    assert torch.autograd.gradcheck(lambda x: wmse(x, ALONE, **options), [random_views(samples=12, width=3)])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_float32_inside(dtype):
    x = random_views(samples=128, width=8, dtype=torch.float32)
    exact = wmse(x, ALONE)
    low = leaf(x.detach().to(dtype))
    with torch.autocast("cpu", dtype=dtype):
        loss = wmse(low, ALONE)
    assert loss.dtype == torch.float32
    close(loss, exact.detach(), rtol=1e-2, atol=0)
    assert gradients(loss, [low])[0].isfinite().all()


def test_float32_is_close_to_float64():
    x = random_views(samples=128, width=16)
    close(wmse(leaf(x.detach().float()), ALONE), wmse(x, ALONE).detach(), rtol=1e-5, atol=0)


def test_too_few_rows_are_refused_without_eps():
    """Rounding would often let their Cholesky factor through."""
    x = random_views(samples=6, width=6)
    with pytest.raises(ConfigError, match="more than 6 rows, or an eps above 0; got 6"):
        wmse(x, ALONE)
    assert wmse(x, ALONE, eps=1e-3).isfinite()


def test_collapsed_rows_give_nan():
    """No exception: the trainer finds what is not finite on all ranks together."""
    assert wmse(torch.ones(9, 2, 4), ALONE).isnan()
