"""Triplet margin loss against golden values."""

import torch

from runner.group import Group
from runner.losses.triplet import triplet_margin
from tests.golden import load_golden
from tests.losses.test_sigmoid import GRADIENT, VALUE, close, gradients, leaf

ALONE = Group()


def test_values_and_gradients_equal_the_golden_ones():
    golden = load_golden("clean_mining")
    inputs = [leaf(golden[name]) for name in ("t_a", "t_p", "t_n")]
    loss = triplet_margin(*inputs, ALONE)
    close(loss, golden["t_loss"], **VALUE)
    for gradient, name in zip(gradients(loss, inputs), ("t_ga", "t_gp", "t_gn"), strict=True):
        close(gradient, golden[name], **GRADIENT)


def test_far_negatives_cost_nothing_and_equal_rows_the_margin():
    a = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    assert triplet_margin(a, a, a + 100, ALONE) == 0
    inputs = [leaf(a), leaf(a), leaf(a)]
    loss = triplet_margin(*inputs, ALONE, margin=0.3)
    close(loss, 0.3, rtol=1e-6, atol=0)
    assert all(gradient.isfinite().all() for gradient in gradients(loss, inputs))
