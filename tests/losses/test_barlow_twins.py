"""Barlow Twins against golden values, torch's batch norm, finite differences and float32."""

import pytest
import torch
from torch import nn

from runner.group import Group
from runner.losses.barlow_twins import barlow_twins
from tests.golden import cases, load_golden
from tests.losses.test_sigmoid import GRADIENT, VALUE, close, gradients, leaf, random_case

ALONE = Group()


def naive(x, y, redundancy=5e-3):
    """With torch's batch norm without parameters, and entry by entry."""
    N, D = x.shape
    norm = nn.BatchNorm1d(D, affine=False, dtype=x.dtype)
    C = norm(x).T @ norm(y) / N
    on = sum((C[i, i] - 1) ** 2 for i in range(D))
    return on, redundancy * sum(C[i, j] ** 2 for i in range(D) for j in range(D) if i != j)


@pytest.mark.parametrize("redundancy", [0.005, 0.1])
def test_values_and_gradients_equal_the_golden_ones(redundancy):
    for case in cases(load_golden("ssl_losses")):
        inputs = [leaf(case["z1"]), leaf(case["z2"])]
        loss = sum(barlow_twins(*inputs, ALONE, redundancy=redundancy))
        close(loss, case[f"barlow{redundancy}"], **VALUE)
        for view, gradient in enumerate(gradients(loss, inputs), 1):
            close(gradient, case[f"barlow{redundancy}_g{view}"], **GRADIENT)


def test_terms_equal_the_naive_ones():
    inputs = random_case()[:2]
    for term in range(2):
        mine, theirs = barlow_twins(*inputs, ALONE)[term], naive(*inputs)[term]
        close(mine, theirs.detach(), rtol=1e-12, atol=0)
        for found, wanted in zip(gradients(mine, inputs), gradients(theirs, inputs), strict=True):
            close(found, wanted, rtol=1e-10, atol=1e-14)


def test_gradcheck():
    def loss(x, y):
        return tuple(barlow_twins(x, y, ALONE, redundancy=0.3))

    assert torch.autograd.gradcheck(loss, random_case(n=6, d=4)[:2])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_float32_inside(dtype):
    x, y = random_case(n=64, d=32, dtype=torch.float32)[:2]
    exact = sum(barlow_twins(x, y, ALONE))
    low = [leaf(x.detach().to(dtype)), leaf(y.detach().to(dtype))]
    with torch.autocast("cpu", dtype=dtype):
        terms = barlow_twins(*low, ALONE)
    assert {term.dtype for term in terms} == {torch.float32}
    close(sum(terms), exact.detach(), rtol=1e-2, atol=0)
    for mine, theirs in zip(gradients(sum(terms), low), gradients(exact, (x, y)), strict=True):
        assert mine.isfinite().all()
        assert (mine.float() - theirs).norm() <= 1e-2 * theirs.norm()


def test_scale_and_shift_of_a_dimension_change_nothing():
    """But for eps; the batch norm of one reference system trains a scale and shift of its own here."""
    x, y = (tensor.detach() for tensor in random_case()[:2])
    plain = sum(barlow_twins(x, y, ALONE, eps=0.0))
    close(sum(barlow_twins(7 * x - 3, y / 5, ALONE, eps=0.0)), plain, rtol=1e-12, atol=0)


def test_a_constant_dimension_is_finite():
    inputs = [leaf(torch.randn(6, 3) * torch.tensor([1.0, 0.0, 1.0])) for _ in range(2)]
    loss = sum(barlow_twins(*inputs, ALONE))
    assert loss.isfinite() and all(gradient.isfinite().all() for gradient in gradients(loss, inputs))


def test_float32_is_close_to_float64_where_dimensions_are_many():
    x, y = random_case(n=64, d=1500)[:2]
    exact = sum(barlow_twins(x, y, ALONE)).float().detach()
    close(sum(barlow_twins(x.float(), y.float(), ALONE)), exact, rtol=1e-6, atol=0)
