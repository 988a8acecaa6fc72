"""One process = N processes: the losses that are statistics of all rows, on 1, 2 and 4 ranks."""

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from runner.group import Group
from runner.losses.barlow_twins import barlow_twins
from runner.losses.cosine import negative_cosine, symmetric_negative_cosine
from runner.losses.dino import dino, update_centre
from runner.losses.vicreg import vicreg
from runner.losses.wmse import wmse
from tests.losses.test_ranks import mean
from tests.ranks import run_ranks

ROWS, WIDTH = 23, 8
SPLITS = {1: [[23]], 2: [[12, 11], [1, 22]], 4: [[6, 6, 6, 5], [1, 9, 3, 10], [8, 0, 15, 0]]}
ORDER = torch.randperm(ROWS, generator=torch.Generator().manual_seed(9))
LOSSES = {
    "vicreg": lambda x, y, group: sum(vicreg(x[:, 0], y[:, 0], group)),
    "barlow twins": lambda x, y, group: sum(barlow_twins(x[:, 0], y[:, 0], group, redundancy=0.1)),
    "negative cosine": lambda x, y, group: negative_cosine(x[:, 0], y[:, 0], group),
    "symmetric negative cosine": lambda x, y, group: symmetric_negative_cosine(
        (x[:, 0], y[:, 0]), (x[:, 1], y[:, 1]), group
    ),
    "dino": lambda x, y, group: dino(x, y[:, :2], x.new_full((WIDTH,), 0.1), group, teacher_temperature=0.07),
    "wmse": lambda x, y, group: wmse(torch.cat([x, y], 1), group),
    "wmse in pieces": lambda x, y, group: wmse(torch.stack([x[:, 0], y[:, 0]], 1), group, sub_batch=11, order_N=ORDER),
}


def views(dtype):
    """x and y, (N, 3, D), which resemble each other; the same on every rank."""
    generator = torch.Generator().manual_seed(0)
    shared, x, y = torch.randn(3, ROWS, 3, WIDTH, dtype=torch.float64, generator=generator)
    return (shared + 0.5 * x).to(dtype), (shared + 0.5 * y).to(dtype)


def compute(group, rows, dtype):
    """{loss: (value, gradients of own x and own y)} of these rows."""
    results = {}
    for name, loss_of in LOSSES.items():
        inputs = [tensor[rows].clone().requires_grad_() for tensor in views(dtype)]
        loss = loss_of(*inputs, group)
        gradients = torch.autograd.grad(loss, inputs, allow_unused=True)
        results[name] = (loss.detach(), *gradients)
    return results


def compute_splits(group, splits, dtype):
    results = []
    for sizes in splits:
        start = sum(sizes[: group.rank])
        results.append(compute(group, slice(start, start + sizes[group.rank]), dtype))
    return results


@pytest.mark.ddp
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=str)
@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_mean_over_ranks_is_the_loss_of_one_process(world, dtype, tolerance):
    expected = compute(Group(), slice(ROWS), dtype)
    by_rank = run_ranks(world, compute_splits, SPLITS[world], dtype)
    for split, sizes in enumerate(SPLITS[world]):
        for name, wanted in expected.items():
            loss, x, y = zip(*(results[split][name] for results in by_rank), strict=True)
            # what the mean over ranks of the parameters' gradients is made of
            found = [mean(loss), *(None if part[0] is None else torch.cat(part) / world for part in (x, y))]
            for mine, theirs in zip(found, wanted, strict=True):
                assert (mine is None) == (theirs is None), (sizes, name)
                if mine is not None:
                    assert (mine - theirs).norm() <= tolerance * theirs.norm(), (sizes, name)


def barlow_of(group, rows):
    """The loss, and the gradient of a projection under DDP."""
    projection = nn.Linear(WIDTH, WIDTH, bias=False, dtype=torch.float64)
    nn.init.eye_(projection.weight)
    model = DistributedDataParallel(projection, process_group=group.data) if group.world > 1 else projection
    x, y = model(torch.stack([view[rows, 0] for view in views(torch.float64)]))
    loss = sum(barlow_twins(x, y, group))
    loss.backward()
    return loss.detach(), projection.weight.grad


def barlow_on_rank(group):
    return barlow_of(group, slice(group.rank * 12, group.rank * 12 + 12))


@pytest.mark.ddp
def test_barlow_cross_correlation_is_reduced_with_gradient():
    """One reference system drops the reduced matrix: its gradient on two ranks is off by more than it is long."""
    expected_loss, expected = barlow_of(Group(), slice(ROWS))
    for loss, gradient in run_ranks(2, barlow_on_rank):
        torch.testing.assert_close(loss, expected_loss, rtol=1e-12, atol=0)
        assert (gradient - expected).norm() <= 1e-10 * expected.norm()


def centres(group, sizes):
    """The centre after each of two updates."""
    start = sum(sizes[: group.rank])
    centre, started = torch.zeros(WIDTH, dtype=torch.float64), torch.tensor(0)
    found = []
    for logits in views(torch.float64):
        update_centre(centre, started, logits[start : start + sizes[group.rank]], group)
        found.append(centre.clone())
    return torch.stack(found)


@pytest.mark.ddp
@pytest.mark.parametrize("sizes", [[12, 11], [8, 0, 15, 0]], ids=str)
def test_the_centre_is_that_of_all_ranks(sizes):
    """Every row counts alike, also where ranks hold different numbers of them."""
    first, second = views(torch.float64)
    expected = torch.stack([first.mean((0, 1)), 0.9 * first.mean((0, 1)) + 0.1 * second.mean((0, 1))])
    for found in run_ranks(len(sizes), centres, sizes):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
