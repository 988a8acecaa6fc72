"""SupCon-Hard: golden values, no negatives, padding, and the temperature at which its reference fails."""

import pytest
import torch

from runner.group import Group
from runner.losses.supcon_hard import supcon_hard
from tests.golden import cases, load_golden
from tests.losses import naive
from tests.losses.test_sigmoid import GRADIENT, VALUE, close, gradients, leaf

ALONE = Group()


def anchors(b=4, places=6, d=8):
    return leaf(torch.randn(b, places, d, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))


def test_values_and_gradients_equal_the_golden_ones():
    """The last four cases have no negatives."""
    golden = load_golden("supcon_hard")
    for (positives, _, temperature), case in zip(golden["params"].tolist(), cases(golden), strict=True):
        z = leaf(case["emb"])
        loss = supcon_hard(z, int(positives), temperature, ALONE)
        close(loss, case["loss"], **VALUE)
        close(gradients(loss, [z])[0], case["g"], **GRADIENT)


@pytest.mark.parametrize("sign", [1, -1])
def test_finite_for_opposite_vectors_at_temperature_one_hundredth(sign):
    """Positives opposite, negatives alike, and the other way round: a power of -2 / temperature underflows."""
    anchor = torch.nn.functional.normalize(torch.randn(3, 1, 8, generator=torch.Generator().manual_seed(0)), dim=2)
    z = leaf(torch.cat([anchor, -sign * anchor, -sign * anchor, sign * anchor], 1))
    exact = leaf(z.detach().double())
    loss, wanted = (supcon_hard(rows, 2, 0.01, ALONE) for rows in (z, exact))
    close(loss, wanted.detach(), rtol=1e-5, atol=1e-5)
    assert gradients(loss, [z])[0].isfinite().all()
    everywhere_opposite = leaf(torch.cat([anchor, -anchor, -anchor], 1))
    loss = supcon_hard(everywhere_opposite, 1, 0.01, ALONE)
    close(loss, torch.tensor(2.0).log(), rtol=1e-4, atol=0)
    assert gradients(loss, [everywhere_opposite])[0].isfinite().all()


def test_padding_equals_shorter_lists():
    z = anchors()
    valid = torch.tensor([True, False, True, True, False]).expand(4, 5)
    padded = supcon_hard(z, 2, 0.1, ALONE, valid_BM=valid)
    short = supcon_hard(z[:, [0, 1, 3, 4]], 1, 0.1, ALONE)
    close(padded, short.detach(), rtol=1e-12, atol=0)
    close(gradients(padded, [z])[0], gradients(short, [z])[0], rtol=1e-10, atol=1e-14)


def test_padding_may_hold_anything_finite_and_gets_no_gradient():
    z = anchors()
    valid = torch.ones(4, 5, dtype=torch.bool)
    valid[:, 3:] = False
    loss = supcon_hard(z, 2, 0.1, ALONE, valid_BM=valid)
    with torch.no_grad():
        other = z.clone()
        other[:, 4:] *= -1e6
    assert loss == supcon_hard(other, 2, 0.1, ALONE, valid_BM=valid)
    assert not gradients(loss, [z])[0][:, 4:].any()


def test_an_anchor_without_a_valid_positive_is_left_out():
    z = anchors()
    valid = torch.ones(4, 5, dtype=torch.bool)
    valid[1, :2] = False
    valid[2] = False
    loss = supcon_hard(z, 2, 0.1, ALONE, valid_BM=valid)
    close(loss, supcon_hard(z[[0, 3]], 2, 0.1, ALONE).detach(), rtol=1e-12, atol=0)
    assert not gradients(loss, [z])[0][1:3].any()


def test_nothing_valid_is_no_loss_and_no_gradient():
    z = anchors()
    loss = supcon_hard(z, 2, 0.1, ALONE, valid_BM=torch.zeros(4, 5, dtype=torch.bool))
    assert loss == 0
    assert not gradients(loss, [z])[0].any()


def test_weights_are_relative():
    z, weights = anchors(), torch.tensor([1.0, 2.0, 0.0, 5.0], dtype=torch.float64)
    loss = supcon_hard(z, 2, 0.1, ALONE, weights_B=weights)
    close(loss, naive.supcon_hard(z, 2, 0.1, weights=weights).detach(), rtol=1e-12, atol=0)
    close(supcon_hard(z, 2, 0.1, ALONE, weights_B=9 * weights), loss.detach(), rtol=1e-12, atol=0)
