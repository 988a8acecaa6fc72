"""NT-Xent against golden values, another library and values worked out by hand."""

import math

import pytest
import torch
from pytorch_metric_learning.losses import NTXentLoss

from runner.group import Group
from runner.losses.nt_xent import nt_xent
from tests.golden import cases, load_golden
from tests.losses.test_sigmoid import GRADIENT, VALUE, Multiplications, close, gradients, leaf, random_case

ALONE = Group()


@pytest.mark.parametrize("block", [None, 5])
@pytest.mark.parametrize("temperature", [0.5, 0.1])
def test_values_and_gradients_equal_the_golden_ones(temperature, block):
    for case in cases(load_golden("ssl_losses")):
        inputs = [leaf(case["z1"]), leaf(case["z2"])]
        name = f"ntxent{temperature}"
        loss = nt_xent(*inputs, temperature, ALONE, block=block)
        close(loss, case[name], **VALUE)
        for gradient, wanted in zip(gradients(loss, inputs), (case[f"{name}_g1"], case[f"{name}_g2"]), strict=True):
            close(gradient, wanted, **GRADIENT)


def test_equals_another_library():
    x, y = random_case(n=12)[:2]
    labels = torch.arange(12).repeat(2)
    expected = NTXentLoss(temperature=0.2)(torch.cat([x, y]), labels)
    close(nt_xent(x, y, 0.2, ALONE, block=5), expected.detach(), rtol=1e-9, atol=0)


def test_samples_at_right_angles():
    """The partner has similarity 1, the six others 0."""
    x = torch.eye(4, dtype=torch.float64)
    close(nt_xent(x, x, 1.0, ALONE), math.log((math.e + 6) / math.e), rtol=1e-12, atol=0)


def test_one_sample_has_nothing_to_be_told_from():
    x, y = random_case(n=1)[:2]
    loss = nt_xent(x, y, 0.1, ALONE)
    close(loss, 0.0, rtol=0, atol=1e-14)
    assert all(gradient.norm() < 1e-14 for gradient in gradients(loss, [x, y]))


def test_half_of_the_tiles_are_enough():
    x, y = random_case(n=64, d=32, dtype=torch.float32)[:2]
    with Multiplications() as multiplications:
        nt_xent(x, y, 0.1, ALONE, block=16).backward()
    # S with its diagonal tiles, once because it fits, and G z
    assert multiplications.count / (128 * 128 * 32) == (0.5 + 0.5 / 8) + 1
