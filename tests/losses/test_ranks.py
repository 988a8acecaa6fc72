"""One process = N processes: values and gradients of the losses on 1, 2 and 4 ranks."""

import functools

import pytest
import torch

from runner.group import Group
from runner.losses.pairwise import Measured
from runner.losses.relic import relic
from runner.losses.sigmoid import scl
from tests.losses.table import CASES, labels_of
from tests.losses.test_sigmoid import random_case
from tests.ranks import run_ranks

ROWS = 23


def of_views(loss, x, y, log_scale, bias, labels, group):
    return loss(x, y, log_scale, bias, group, pairs=[(0, 0), (2, 0), (1, 1)], block=4)


def relic_of_views(alpha, x, y, log_scale, bias, labels, group):
    return relic(x, y, log_scale, group, alpha=alpha, pairs=[(0, 0), (2, 0), (1, 1)], block=4)


def of_rows(case, x, y, log_scale, bias, labels, group):
    options = {"block": 4} if case.blockwise else {}
    # shorter, because losses of products are only as exact as the largest of them
    return Measured(case.loss(x[:, 0] / 4, y[:, 0] / 4, log_scale, labels, group, **options), None)


LOSSES = {
    "scl": functools.partial(of_views, functools.partial(scl, gamma=0.7)),
    "scl with KL": functools.partial(of_views, functools.partial(scl, alpha=0.6)),
    "scl filtered": functools.partial(of_views, functools.partial(scl, alpha=0.3, filter_threshold=0.1)),
    "siglip": functools.partial(of_views, functools.partial(scl, gamma=0.0)),
    "relic": functools.partial(relic_of_views, 0.5),
    "cross entropy": functools.partial(relic_of_views, 0.0),
    **{name: functools.partial(of_rows, case) for name, case in CASES.items()},
}
SPLITS = {1: [[23]], 2: [[12, 11], [1, 22]], 4: [[6, 6, 6, 5], [1, 9, 3, 10], [8, 0, 15, 0]]}
TARGET_GRADIENT = [True, False]


def views(dtype):
    """x (B, 3, D), y (B, 2, D), log_scale, bias: the same on every rank."""
    cases = [random_case(n=ROWS, dtype=dtype, seed=seed) for seed in (0, 1, 2)]
    x, y = torch.stack([case[0] for case in cases], 1), torch.stack([case[1] for case in cases[:2]], 1)
    return x.detach(), y.detach(), cases[0][2].detach(), cases[0][3].detach()


def compute(group, rows, dtype):
    """{case: (loss, kl, gradients of own x, own y, log_scale, bias)} of these rows."""
    results = {}
    for name, loss_of in LOSSES.items():
        for target_gradient in TARGET_GRADIENT:
            x, y, log_scale, bias = views(dtype)
            inputs = [x[rows], y[rows], log_scale, bias]
            for index, tensor in enumerate(inputs):
                tensor.requires_grad_(index != 1 or target_gradient)
            loss, kl = loss_of(*inputs, labels_of(torch.arange(ROWS)[rows]), group)
            loss.backward()
            gradients = [None if tensor.grad is None else tensor.grad.clone() for tensor in inputs]
            results[name, target_gradient] = (loss.detach(), kl, *gradients)
    return results


def compute_splits(group, splits, dtype):
    results = []
    for sizes in splits:
        start = sum(sizes[: group.rank])
        results.append(compute(group, slice(start, start + sizes[group.rank]), dtype))
    return results


def mean(ranks):
    return None if ranks[0] is None else sum(ranks) / len(ranks)


@pytest.mark.ddp
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=str)
@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_mean_over_ranks_is_the_loss_of_one_process(world, dtype, tolerance):
    expected = compute(Group(), slice(ROWS), dtype)
    by_rank = run_ranks(world, compute_splits, SPLITS[world], dtype)
    for split in range(len(SPLITS[world])):
        for case, wanted in expected.items():
            loss, kl, x, y, log_scale, bias = zip(*(results[split][case] for results in by_rank), strict=True)
            found = [
                mean(loss),
                mean(kl),
                # what the mean over ranks of the parameters' gradients is made of
                torch.cat(x) / world,
                None if y[0] is None else torch.cat(y) / world,
                mean(log_scale),
                mean(bias),
            ]
            for mine, theirs in zip(found, wanted, strict=True):
                assert (mine is None) == (theirs is None), (SPLITS[world][split], case)
                if mine is not None:
                    assert (mine - theirs).norm() <= tolerance * theirs.norm() + 1e-14, (
                        SPLITS[world][split],
                        case,
                    )
