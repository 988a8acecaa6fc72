"""Class and sample weights against MUTarget's arrays, and where its formula divides by zero."""

import torch

from runner.class_weights import class_weights, sample_weights
from tests.golden import load_golden


def test_weights_are_mutargets():
    golden = load_golden("mutarget_sampling")
    labels = golden["labels"]
    assert torch.equal(labels.sum(0), golden["class_counts"])
    weights = class_weights(labels)
    torch.testing.assert_close(weights, golden["class_weights"], rtol=1e-6, atol=0)
    torch.testing.assert_close(sample_weights(labels, weights), golden["sample_weight"], rtol=1e-6, atol=0)


def test_labels_of_any_type_weigh_the_same():
    labels = torch.rand(30, 4) < 0.3
    for dtype in (torch.float32, torch.uint8, torch.int64):
        assert torch.equal(class_weights(labels.to(dtype)), class_weights(labels))


def test_a_class_without_members_weighs_nothing():
    labels = torch.tensor([[1, 0, 1], [1, 0, 0], [0, 0, 0]])
    weights = class_weights(labels)
    assert weights.tolist() == [0.5, 0, 1]
    assert sample_weights(labels, weights).tolist() == [1, 0.5, 0.5]


def test_no_labels_at_all():
    labels = torch.zeros(3, 2)
    assert class_weights(labels).tolist() == [0, 0]
    assert sample_weights(labels, class_weights(labels)).tolist() == [1, 1, 1]
