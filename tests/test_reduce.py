"""The differentiable all-reduce against one process that holds all rows."""

import pytest
import torch

from runner.group import Group
from runner.reduce import reduce_sum
from tests.ranks import run_ranks

ROWS = 10


def inputs():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(ROWS, 3, generator=generator, dtype=torch.float64)


def loss_of(x_BD, group, alike):
    """A function of a sum of what depends on another sum; only after the last one all ranks compute alike."""
    centred = x_BD - reduce_sum(x_BD.sum(0), group) / ROWS
    return reduce_sum(centred.T @ centred.exp(), group, alike=alike).square().sum()


def on_rank(group, sizes, alike):
    start = sum(sizes[: group.rank])
    leaf = inputs()[start : start + sizes[group.rank]].requires_grad_()
    loss = loss_of(leaf, group, alike)
    loss.backward()
    return loss.detach(), leaf.grad / group.world


@pytest.mark.ddp
@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize("sizes", [[5, 5], [0, 10], [3, 2, 4, 1]], ids=str)
def test_equals_one_process(sizes, alike):
    leaf = inputs().requires_grad_()
    expected = loss_of(leaf, Group(), alike)
    expected.backward()
    ranks = run_ranks(len(sizes), on_rank, sizes, alike)
    for loss, _ in ranks:
        torch.testing.assert_close(loss, expected.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.cat([gradient for _, gradient in ranks]), leaf.grad, rtol=1e-12, atol=1e-12)


def test_one_rank_is_the_identity():
    x = torch.randn(3, 2, requires_grad=True)
    assert reduce_sum(x, Group()) is x
