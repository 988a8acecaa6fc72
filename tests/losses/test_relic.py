"""ReLIC's loss against golden values and the naive formula."""

import math

import pytest
import torch

from runner.group import Group
from runner.losses.relic import relic
from runner.losses.sigmoid import scl
from tests.golden import cases, load_golden
from tests.losses import naive
from tests.losses.test_sigmoid import GRADIENT, VALUE, close, gradients, leaf, random_case

ALONE = Group()


@pytest.mark.parametrize("block", [None, 5])
def test_values_and_gradients_equal_the_golden_ones(block):
    golden = load_golden("relic_loss")
    for (use_siglip, max_scale, log_scale, bias, alpha), case in zip(
        golden["params"].tolist(), cases(golden), strict=True
    ):
        numbers = [leaf(torch.tensor(value, dtype=torch.float64)) for value in (log_scale, bias)]
        inputs = [leaf(case["x"]), leaf(case["xp"]), *numbers]
        options = {"alpha": alpha, "max_scale": max_scale, "measure_kl": True, "block": block}
        if use_siglip:
            loss, kl = scl(*inputs, ALONE, gamma=0.0, **options)
        else:
            loss, kl = relic(*inputs[:3], ALONE, **options)
        close(loss, case["loss"], **VALUE)
        close(kl, case["kl"], **VALUE)
        for name, gradient in zip(("gx", "gxp", "gtau", "gb"), gradients(loss, inputs), strict=True):
            if gradient is None:  # the softmax is blind to a bias
                assert name == "gb" and abs(case[name]) < 1e-12
            else:
                close(gradient, case[name], **GRADIENT)


@pytest.mark.parametrize("alpha", [0.0, 0.7])
def test_equals_the_naive_loss(alpha):
    inputs = random_case()[:3]
    expected, expected_kl = naive.relic(*inputs, alpha=alpha)
    loss, kl = relic(*inputs, ALONE, alpha=alpha, measure_kl=True, block=5)
    close(loss, expected.detach(), rtol=1e-12, atol=0)
    close(kl, expected_kl.detach(), rtol=1e-12, atol=0)
    for mine, theirs in zip(gradients(loss, inputs), gradients(expected, inputs), strict=True):
        close(mine, theirs, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_gradcheck(alpha):
    def loss(*inputs):
        return relic(*inputs, ALONE, alpha=alpha, block=3).loss

    assert torch.autograd.gradcheck(loss, random_case(n=7, d=4)[:3])


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_float32_is_exact_at_temperature_one_hundredth(alpha):
    """Random rows and rows that oppose each other: no maximum is subtracted in the wrong place."""
    exact = random_case(n=60, d=64, log_scale=math.log(100))[:3]
    with torch.no_grad():
        exact[1][::7] = -exact[0][::7]
    single = [leaf(tensor.detach().float()) for tensor in exact]
    exact = [leaf(tensor.detach().double()) for tensor in single]
    wanted = relic(*exact, ALONE, alpha=alpha, max_scale=None, block=16).loss
    found = relic(*single, ALONE, alpha=alpha, max_scale=None, block=16).loss
    close(found, wanted.detach(), rtol=1e-6, atol=0)
    for mine, theirs in zip(gradients(found, single), gradients(wanted, exact), strict=True):
        assert (mine.double() - theirs).norm() <= 5e-6 * theirs.norm()


def test_identical_rows_and_one_row():
    """Nothing can be told apart: log N, whatever the scale."""
    for rows in (1, 9):
        x = torch.ones(rows, 4, dtype=torch.float64)
        loss, kl = relic(x, x, torch.tensor(1.0), ALONE, alpha=1.0, block=4)
        close(loss, math.log(rows), rtol=1e-12, atol=1e-12)
        close(kl, 0.0, rtol=0, atol=1e-12)
