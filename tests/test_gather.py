"""The differentiable all-gather against one process that holds all rows."""

import pytest
import torch

from runner.gather import gather
from runner.group import Group
from tests.ranks import run_ranks

ROWS = 10


def inputs():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(ROWS, 3, generator=generator, dtype=torch.float64), torch.randn(
        ROWS, 3, generator=generator, dtype=torch.float64
    )


def whole_loss(z_ND, rows):
    """Something that ties every row to every other, counted for some rows."""
    return (z_ND @ z_ND.T).exp()[rows].sum() / ROWS


def on_rank(group, sizes):
    """Loss and gradient of own rows; each rank's loss counts own rows, times the world size."""
    x, weight = inputs()
    start = sum(sizes[: group.rank])
    own = slice(start, start + sizes[group.rank])
    leaf = x[own].clone().requires_grad_()
    z_ND = gather(leaf * weight[own], group)
    loss = group.world * whole_loss(z_ND, own)
    loss.backward()
    return z_ND.detach(), loss.detach(), leaf.grad / group.world


@pytest.mark.ddp
@pytest.mark.parametrize("sizes", [[5, 5], [1, 9], [3, 2, 4, 1]], ids=str)
def test_equals_one_process(sizes):
    x, weight = inputs()
    leaf = x.clone().requires_grad_()
    whole_loss(leaf * weight, slice(None)).backward()
    ranks = run_ranks(len(sizes), on_rank, sizes)
    for z_ND, _, _ in ranks:
        assert torch.equal(z_ND, x * weight)
    loss = sum(loss for _, loss, _ in ranks) / len(ranks)
    torch.testing.assert_close(loss, whole_loss(x * weight, slice(None)), rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.cat([gradient for *_, gradient in ranks]), leaf.grad, rtol=1e-12, atol=0)


def test_one_rank_gathers_itself():
    x = torch.randn(3, 2, requires_grad=True)
    assert gather(x, Group()) is x
