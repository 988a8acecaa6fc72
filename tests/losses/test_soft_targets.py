"""Cross entropy with soft targets against golden values, and what tells its variants apart."""

import pytest
import torch

from runner.group import Group
from runner.losses.info_nce import info_nce
from runner.losses.soft_targets import soft_target_cross_entropy
from tests.golden import cases, load_golden
from tests.losses.test_sigmoid import GRADIENT, VALUE, close, gradients, leaf, random_case

ALONE = Group()


@pytest.mark.parametrize("block", [None, 5])
def test_values_and_gradients_equal_the_golden_ones(block):
    golden = load_golden("contrabin_losses")
    for temperature, case in zip(golden["temperature"].tolist(), cases(golden), strict=True):
        inputs = [leaf(case["a"]), leaf(case["b"])]
        loss = soft_target_cross_entropy(*inputs, temperature, ALONE, second_direction="transposed", block=block)
        close(loss, case["primary"], **VALUE)
        for gradient, wanted in zip(gradients(loss, inputs), (case["primary_ga"], case["primary_gb"]), strict=True):
            close(gradient, wanted, **GRADIENT)


def test_the_form_of_the_paper_equals_the_golden_values():
    golden = load_golden("contrabin_losses")
    for temperature, case in zip(golden["temperature"].tolist(), cases(golden), strict=True):
        loss = soft_target_cross_entropy(case["a"], case["b"], temperature, ALONE, second_direction="none", block=5)
        close(loss, case["paper_onedir"], **VALUE)


def test_exchanging_the_sides_changes_nothing_only_if_symmetric():
    a, b = random_case(n=9)[:2]
    for second_direction, symmetric in (("symmetric", True), ("transposed", False), ("none", False)):
        one, other = (
            soft_target_cross_entropy(*pair, 4.0, ALONE, second_direction=second_direction) for pair in ((a, b), (b, a))
        )
        assert (abs(one - other) < 1e-12 * one) == symmetric


def test_targets_are_sharp_where_no_two_samples_are_alike():
    """Then this is the ordinary loss."""
    a = 30 * torch.eye(5, dtype=torch.float64)
    b = a + torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    loss = soft_target_cross_entropy(a, b, 10.0, ALONE)
    close(loss, info_nce(a, b, 10.0, ALONE, normalize=False), rtol=1e-9, atol=1e-12)


def test_detached_targets_have_the_same_loss_and_another_gradient():
    inputs = random_case(n=9)[:2]
    losses = [soft_target_cross_entropy(*inputs, 5.0, ALONE, detach_targets=detach) for detach in (False, True)]
    assert losses[0] == losses[1]
    assert (gradients(losses[0], inputs)[0] - gradients(losses[1], inputs)[0]).norm() > 1e-3


@pytest.mark.parametrize("second_direction", ["none", "symmetric", "transposed"])
def test_one_row_costs_nothing(second_direction):
    inputs = random_case(n=1)[:2]
    loss = soft_target_cross_entropy(*inputs, 0.1, ALONE, second_direction=second_direction)
    assert abs(loss) < 1e-12
    assert all(gradient.norm() < 1e-12 for gradient in gradients(loss, inputs))
