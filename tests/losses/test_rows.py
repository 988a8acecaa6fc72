"""Means over rows and squares off the diagonal against plain loops."""

import pytest
import torch

from runner.group import Group
from runner.losses import rows
from runner.losses.reduction import mean_of_rows
from runner.losses.rows import full_precision, mean_part, off_diagonal_squares
from tests.losses.test_sigmoid import close, gradients, leaf


def random_matrix(width=9, dtype=torch.float64):
    return leaf(torch.randn(width, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(dtype))


@pytest.mark.parametrize("block_values", [1, 4 * 9, 2**20])
def test_off_diagonal_squares_equal_a_plain_loop(block_values, monkeypatch):
    monkeypatch.setattr(rows, "BLOCK_VALUES", block_values)
    C = random_matrix()
    expected = sum(C[i, j] ** 2 for i in range(9) for j in range(9) if i != j)
    found = off_diagonal_squares(C)
    close(found, expected.detach(), rtol=1e-12, atol=0)
    close(gradients(3 * found, [C])[0], 3 * gradients(expected, [C])[0], rtol=1e-12, atol=0)
    assert torch.autograd.gradcheck(off_diagonal_squares, [C])


def test_off_diagonal_squares_keep_their_precision_in_float32():
    """Millions of entries that one running sum would round away, under a diagonal that dwarfs them."""
    C = random_matrix(1500, torch.float32).detach()
    C.diagonal().add_(300.0)
    exact = off_diagonal_squares(C.double())
    assert off_diagonal_squares(C).dtype == torch.float32
    close(off_diagonal_squares(C).double(), exact, rtol=1e-6, atol=0)
    assert off_diagonal_squares(torch.eye(40) * 0.7) == 0


def test_the_mean_of_one_rank_is_the_mean():
    values = torch.randn(7, dtype=torch.float64)
    close(mean_part(values, Group()), values.mean(), rtol=1e-12, atol=0)


def test_the_mean_of_no_rows_is_nothing_and_can_be_differentiated():
    """No anchor of a small batch may have a negative."""
    losses = torch.zeros(0, requires_grad=True)
    mean = mean_of_rows(losses, Group())
    mean.backward()
    assert mean == 0 and losses.grad.shape == (0,)


def test_full_precision():
    assert full_precision(torch.ones(2, dtype=torch.bfloat16)).dtype == torch.float32
    for dtype in (torch.float32, torch.float64):
        x = torch.ones(2, dtype=dtype)
        assert full_precision(x) is x
