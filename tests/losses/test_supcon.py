"""SupCon against another library, and classes without a positive."""

import math

import pytest
import torch
from pytorch_metric_learning.losses import SupConLoss

from runner.group import Group
from runner.losses.nt_xent import nt_xent
from runner.losses.supcon import supcon
from tests.losses.test_sigmoid import close, gradients, random_case

ALONE = Group()


def test_equals_another_library():
    z = random_case(n=40)[0]
    labels = torch.arange(40) % 7
    expected = SupConLoss(temperature=0.2)(z, labels)
    loss = supcon(z, labels, 0.2, ALONE, block=9)
    close(loss, expected.detach(), rtol=1e-9, atol=0)
    close(gradients(loss, [z])[0], gradients(expected, [z])[0], rtol=1e-8, atol=1e-12)


def test_two_views_of_samples_with_labels_of_their_own_are_nt_xent():
    x, y = random_case()[:2]
    labels = 1000 * torch.arange(len(x)) - 5
    loss = supcon(torch.stack([x, y], 1), labels, 0.1, ALONE, block=6)
    expected = nt_xent(x, y, 0.1, ALONE)
    close(loss, expected.detach(), rtol=1e-12, atol=0)
    for mine, theirs in zip(gradients(loss, [x, y]), gradients(expected, [x, y]), strict=True):
        close(mine, theirs, rtol=1e-10, atol=1e-14)


def test_views_are_rows_with_the_label_of_their_sample():
    x, y = random_case()[:2]
    z, labels = torch.stack([x, y], 1), torch.arange(len(x)) % 4
    expected = supcon(torch.cat([x, y]), labels.repeat(2), 0.1, ALONE)
    close(supcon(z, labels, 0.1, ALONE), expected.detach(), rtol=1e-12, atol=0)


def test_a_row_without_a_positive_is_a_negative_only():
    z = random_case(n=5)[0]
    alone = supcon(z, torch.tensor([0, 0, 1, 2, 3]), 0.3, ALONE)
    unit = torch.nn.functional.normalize(z, dim=1)
    logits = (unit @ unit.T / 0.3).fill_diagonal_(-math.inf)
    by_hand = logits[:2].logsumexp(1).mean() - logits[0, 1]
    close(alone, by_hand.detach(), rtol=1e-12, atol=0)
    (gradient,) = gradients(alone, [z])
    assert (gradient.norm(dim=1) > 0).all()


@pytest.mark.parametrize("rows", [1, 2, 6])
def test_no_positive_at_all_is_no_loss_and_no_gradient(rows):
    z = random_case(n=rows)[0]
    loss = supcon(z, torch.arange(rows), 0.01, ALONE, block=4)
    assert loss == 0
    assert not gradients(loss, [z])[0].any()


def test_one_class():
    """Nothing to be told apart: log of the number of others, at identical rows."""
    z = torch.ones(6, 3, dtype=torch.float64)
    close(supcon(z, torch.zeros(6, dtype=torch.long), 0.01, ALONE), math.log(5), rtol=1e-9, atol=0)
