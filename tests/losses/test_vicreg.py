"""VICReg against golden values, the naive formula, finite differences and float32."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from runner.group import Group
from runner.losses.vicreg import vicreg
from tests.golden import cases, load_golden
from tests.losses.test_sigmoid import GRADIENT, VALUE, close, gradients, leaf, random_case

ALONE = Group()


def naive(x, y, invariance=25.0, variance=25.0, covariance=1.0, eps=1e-4):
    """The three weighted terms, entry by entry where it matters."""
    D, spread, redundancy = x.shape[1], 0, 0
    for view in (x, y):
        spread = spread + F.relu(1 - (view.var(0, unbiased=True) + eps).sqrt()).mean() / 2
        C = torch.cov(view.T, correction=1).reshape(D, D)
        redundancy = redundancy + sum(C[i, j] ** 2 for i in range(D) for j in range(D) if i != j) / D
    return invariance * F.mse_loss(x, y), variance * spread, covariance * redundancy


@pytest.mark.parametrize(
    ("name", "options"),
    [("vicreg", {}), ("vicreg_c", {"invariance": 10.0, "variance": 5.0, "covariance": 2.0, "eps": 1e-3})],
)
def test_values_and_gradients_equal_the_golden_ones(name, options):
    for case in cases(load_golden("ssl_losses")):
        inputs = [leaf(case["z1"]), leaf(case["z2"])]
        loss = sum(vicreg(*inputs, ALONE, **options))
        close(loss, case[name], **VALUE)
        for view, gradient in enumerate(gradients(loss, inputs), 1):
            close(gradient, case[f"{name}_g{view}"], **GRADIENT)


def test_terms_equal_the_naive_ones():
    """Some standard deviations are below 1 and some above."""
    inputs = [leaf(tensor.detach() * torch.linspace(0.3, 2.0, 8).double()) for tensor in random_case()[:2]]
    for mine, theirs in zip(vicreg(*inputs, ALONE), naive(*inputs), strict=True):
        close(mine, theirs.detach(), rtol=1e-12, atol=0)
        for found, wanted in zip(gradients(mine, inputs), gradients(theirs, inputs), strict=True):
            close(found, wanted, rtol=1e-10, atol=1e-14)


def test_gradcheck():
    inputs = [leaf(0.4 * tensor.detach()) for tensor in random_case(n=5, d=3)[:2]]
    assert torch.autograd.gradcheck(lambda x, y: tuple(vicreg(x, y, ALONE)), inputs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_float32_inside(dtype):
    x, y = random_case(n=64, d=32, dtype=torch.float32)[:2]
    exact = sum(vicreg(x, y, ALONE))
    low = [leaf(x.detach().to(dtype)), leaf(y.detach().to(dtype))]
    with torch.autocast("cpu", dtype=dtype):
        terms = vicreg(*low, ALONE)
    assert {term.dtype for term in terms} == {torch.float32}
    close(sum(terms), exact.detach(), rtol=1e-2, atol=0)
    for mine, theirs in zip(gradients(sum(terms), low), gradients(exact, (x, y)), strict=True):
        assert mine.isfinite().all()
        assert (mine.float() - theirs).norm() <= 1e-2 * theirs.norm()


def test_collapsed_views_have_a_finite_gradient():
    """All rows alike: the variance term is at its largest, and its square root has a slope thanks to eps."""
    inputs = [leaf(torch.ones(6, 4)), leaf(torch.ones(6, 4))]
    invariance, variance, covariance = vicreg(*inputs, ALONE)
    assert (invariance, covariance) == (0, 0)
    close(variance, 25 * 0.99, rtol=1e-6, atol=0)
    assert all(gradient.isfinite().all() for gradient in gradients(variance, inputs))


class Products(TorchDispatchMode):
    """Counts matrix products, and lets nothing make a tensor larger than both views together."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.count += "aten.mm" in str(function)
        if isinstance(result, torch.Tensor):
            assert result.numel() <= 48 * 64, f"{function} made {tuple(result.shape)}"
        return result


def test_a_symmetric_covariance_costs_one_product_forward_and_one_back():
    """And nothing of N x N is made: N is 64 here, and both views together have 64 x 48 numbers."""
    x, y = random_case(n=64, d=24, dtype=torch.float32)[:2]
    with Products() as products:
        sum(vicreg(x, y, ALONE)).backward()
    assert products.count == 4


def test_one_row_has_no_variance():
    x = torch.randn(1, 4)
    with pytest.raises(AssertionError, match="one row"):
        vicreg(x, x, ALONE)


def test_float32_is_close_to_float64_where_dimensions_are_many():
    x, y = random_case(n=64, d=1500)[:2]
    close(sum(vicreg(x.float(), y.float(), ALONE)), sum(vicreg(x, y, ALONE)).float().detach(), rtol=1e-6, atol=0)
