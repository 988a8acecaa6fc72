"""InfoNCE: golden values, the queue, and the learnt scale of CLIP."""

import math

import pytest
import torch
from torch.nn import functional as F

from runner.group import Group
from runner.losses.info_nce import clip, info_nce
from runner.losses.relic import relic
from tests.golden import cases, load_golden
from tests.losses.test_sigmoid import GRADIENT, VALUE, close, gradients, leaf, random_case

ALONE = Group()


@pytest.mark.parametrize("block", [None, 5])
def test_values_and_gradients_equal_the_golden_ones(block):
    golden = load_golden("contrabin_losses")
    for temperature, case in zip(golden["temperature"].tolist(), cases(golden), strict=True):
        inputs = [leaf(case["a"]), leaf(case["b"])]
        loss = info_nce(*inputs, temperature, ALONE, block=block)
        close(loss, case["inter"], **VALUE)
        for gradient, wanted in zip(gradients(loss, inputs), (case["inter_ga"], case["inter_gb"]), strict=True):
            close(gradient, wanted, **GRADIENT)


def test_one_direction_is_relic_without_invariance():
    x, y, log_scale, _ = random_case()
    mine = info_nce(x, y, (-log_scale).exp(), ALONE, symmetric=False, block=7)
    close(mine, relic(x, y, log_scale, ALONE, alpha=0.0).loss.detach(), rtol=1e-12, atol=0)


def test_symmetric_is_the_mean_of_both_directions():
    x, y = random_case()[:2]
    directions = [info_nce(*pair, 0.3, ALONE, symmetric=False) for pair in ((x, y), (y, x))]
    close(info_nce(x, y, 0.3, ALONE, block=6), sum(directions).detach() / 2, rtol=1e-12, atol=0)


def test_moco_compares_a_query_with_its_key_and_the_queue():
    """He et al. 2020, algorithm 1: the positive in column 0."""
    query, key = random_case(n=9)[:2]
    queue = torch.randn(40, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    loss = info_nce(query, key.detach(), 0.07, ALONE, symmetric=False, in_batch=False, queue_KD=queue, block=4)
    q, k, negatives = (F.normalize(rows, dim=1) for rows in (query, key.detach(), queue))
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ negatives.T], 1) / 0.07
    expected = F.cross_entropy(logits, torch.zeros(9, dtype=torch.long))
    close(loss, expected.detach(), rtol=1e-12, atol=0)
    close(gradients(loss, [query])[0], gradients(expected, [query])[0], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("rows", [5, 700])
def test_the_queue_gets_no_gradient_and_may_be_larger_or_smaller_than_a_tile(rows):
    x, y = random_case(n=20)[:2]
    queue = leaf(torch.randn(rows, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3)))
    loss = info_nce(x, y, 0.2, ALONE, symmetric=False, queue_KD=queue)
    assert gradients(loss, [x, y, queue])[2] is None
    assert loss > info_nce(x, y, 0.2, ALONE, symmetric=False)


def test_an_empty_queue_changes_nothing():
    x, y = random_case()[:2]
    loss = info_nce(x, y, 0.2, ALONE, symmetric=False, queue_KD=x.new_empty(0, 8))
    assert loss == info_nce(x, y, 0.2, ALONE, symmetric=False)


def test_without_negatives_there_is_nothing_to_learn():
    x, y = random_case()[:2]
    loss = info_nce(x, y, 0.2, ALONE, symmetric=False, in_batch=False)
    close(loss, 0.0, rtol=0, atol=1e-14)
    assert all(gradient.norm() < 1e-13 for gradient in gradients(loss, [x, y]))


def test_the_scale_of_clip_keeps_its_gradient_beyond_the_bound():
    at_bound = random_case(log_scale=math.log(100.0))[:3]
    beyond = random_case(log_scale=math.log(150.0))[:3]
    losses = clip(*at_bound, ALONE), clip(*beyond, ALONE)
    close(losses[1], losses[0].detach(), rtol=1e-12, atol=0)
    close(gradients(losses[1], beyond)[2], gradients(losses[0], at_bound)[2], rtol=1e-9, atol=0)
    hard = clip(*beyond, ALONE, clamp="hard")
    assert gradients(hard, beyond)[2] == 0


def test_rows_at_right_angles():
    x = torch.eye(4, dtype=torch.float64)
    close(info_nce(x, x, 1.0, ALONE), math.log((math.e + 3) / math.e), rtol=1e-12, atol=0)
