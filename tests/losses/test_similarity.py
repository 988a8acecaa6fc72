"""Unit rows: torch's normalisation with a leaner backward."""

import pytest
import torch
from torch.nn import functional as F

from runner.losses.similarity import unit_rows
from tests.losses.test_sigmoid import close, gradients, leaf


def rows(*shape, dtype=torch.float64):
    return leaf(torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype))


@pytest.mark.parametrize("shape", [(7, 5), (7, 3, 5), (0, 5), (4, 1)])
def test_equals_torch(shape):
    x, weight = rows(*shape), torch.linspace(-1, 2, shape[-1], dtype=torch.float64)
    mine, theirs = unit_rows(x), F.normalize(x, dim=-1)
    close(mine, theirs.detach(), rtol=1e-14, atol=0)
    close(gradients((mine * weight).sum(), [x])[0], gradients((theirs * weight).sum(), [x])[0], rtol=1e-12, atol=1e-14)


def test_gradcheck():
    assert torch.autograd.gradcheck(unit_rows, rows(4, 3))


def test_a_row_of_zeros_stays_one_and_has_a_finite_gradient():
    x = leaf(torch.zeros(2, 3))
    unit = unit_rows(x)
    assert not unit.any()
    assert torch.equal(gradients(unit.sum(), [x])[0], gradients(F.normalize(x, dim=1).sum(), [x])[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision_rows_become_float32(dtype):
    x = rows(7, 5, dtype=dtype)
    with torch.autocast("cpu", dtype=dtype):
        unit = unit_rows(x)
    assert unit.dtype == torch.float32
    close(unit.norm(dim=1), torch.ones(7), rtol=1e-6, atol=0)
