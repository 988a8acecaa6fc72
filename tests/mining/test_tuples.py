"""Positives and negatives against MUTarget's arrays, less its false negatives, and for anchors that have none."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from runner.mining.distances import hardness
from runner.mining.tuples import (
    draw_anchors,
    draw_tuples,
    hard_negatives,
    hard_template,
    regroup,
    share_class,
    weigh_negatives,
)
from tests.golden import load_golden

ALL_SETS = np.array(list(itertools.product([False, True], repeat=8)))[1:]
"""All 255 sets of the 8 classes that are not empty."""


@pytest.fixture(scope="module")
def golden():
    return load_golden("mutarget_sampling")


@pytest.fixture(scope="module")
def shipped():
    return hardness(load_golden("mutarget_hard_mining")["map_shipped"].numpy())


def random_hardness(seed, classes=8, k=1):
    points = np.random.default_rng(seed).normal(size=(classes, 3))
    return hardness(np.linalg.norm(points[:, None] - points, axis=2), k)


def random_labels(samples, classes=8, seed=0, share=0.2):
    return np.random.default_rng(seed).random((samples, classes)) < share


def everyone(labels):
    return np.arange(len(labels))


@pytest.mark.parametrize("name", ["shipped", "random"])
def test_templates_are_mutargets(name):
    golden = load_golden("mutarget_hard_mining")
    labels = golden["labels"].numpy().astype(bool)
    template = hard_template(labels, hardness(golden[f"map_{name}"].numpy()))
    empty = ~template.any(1, keepdims=True)
    assert np.array_equal(np.where(empty, ~labels, template), golden[f"neg_{name}"].numpy().astype(bool))
    assert not (template & labels).any()
    if name == "shipped":
        assert empty.sum() == 25


def test_positives_and_negatives_are_mutargets(golden):
    labels = golden["labels"].numpy().astype(bool)
    shares = share_class(labels, everyone(labels))
    own = np.eye(len(labels), dtype=bool)
    assert np.array_equal(shares & ~own, golden["pos_mask"].numpy())
    assert np.array_equal(~shares & ~own, golden["neg_mask"].numpy())


def test_hard_negatives_are_mutargets_without_its_false_negatives(golden, shipped):
    labels = golden["labels"].numpy().astype(bool)
    expected = golden["hard_neg_mask_upstream"] & ~golden["hard_neg_false_negatives"]
    expected &= ~torch.eye(len(labels), dtype=torch.bool)
    assert np.array_equal(hard_negatives(labels, everyone(labels), shipped), expected.numpy())
    assert golden["hard_neg_false_negatives"].any()


@pytest.mark.parametrize("near", ["shipped", 0, 1])
def test_hard_negatives_never_share_a_class(near, shipped):
    """Every set of classes as the anchor, every set as the candidate."""
    hard = hard_negatives(ALL_SETS, everyone(ALL_SETS), shipped if near == "shipped" else random_hardness(near))
    overlap = (ALL_SETS[:, None] & ALL_SETS).any(2)
    assert not (hard & overlap).any()
    assert hard.any()


@given(
    labels=st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=12),
    seed=st.integers(0, 2**63 - 1),
    positives=st.integers(1, 5),
    negatives=st.integers(0, 6),
    mining=st.sampled_from([None, False, True]),
)
def test_what_holds_for_any_labels(labels, seed, positives, negatives, mining):
    labels = np.array(labels)
    near = None if mining is None else random_hardness(0, classes=4, k=2)
    found = draw_tuples(
        labels, everyone(labels), positives, negatives, seed=seed, epoch=3, hardness_CC=near, weighted=bool(mining)
    )
    assert found.positives.shape == (len(labels), positives)
    assert found.negatives.shape == (len(labels), negatives)
    for anchor, (chosen, others) in enumerate(zip(found.positives, found.negatives, strict=True)):
        sharing = {j for j in range(len(labels)) if j != anchor and (labels[j] & labels[anchor]).any()}
        different = set(range(len(labels))) - sharing - {anchor}
        assert set(chosen) <= (sharing or {anchor})
        assert len(set(chosen)) == min(positives, max(len(sharing), 1))
        assert found.complete[anchor] == bool(different)
        assert set(others) <= (different or {anchor})
        assert len(set(others)) == min(negatives, max(len(different), 1))


def test_an_anchor_without_positives_survives():
    labels = np.array([[1, 0, 0], [0, 1, 0], [0, 1, 0]], bool)
    found = draw_tuples(labels, np.array([0]), 3, 2, seed=0, epoch=0)
    assert found.positives.tolist() == [[0, 0, 0]]
    assert sorted(found.negatives[0]) == [1, 2] and found.complete.all()


def test_an_anchor_of_all_classes_survives(shipped):
    labels = np.concatenate([np.eye(8, dtype=bool), np.ones((1, 8), bool)])
    found = draw_tuples(labels, np.array([8, 0]), 2, 3, seed=0, epoch=0, hardness_CC=shipped)
    assert found.complete.tolist() == [False, True]
    assert found.negatives[0].tolist() == [8, 8, 8]


def test_a_sample_without_classes_is_a_negative_of_all():
    labels = np.array([[1, 0], [1, 0], [0, 0]], bool)
    found = draw_tuples(labels, everyone(labels), 2, 4, seed=0, epoch=0)
    assert found.positives.tolist() == [[1, 1], [0, 0], [2, 2]]
    assert (found.negatives[:2] == 2).all() and sorted(found.negatives[2]) == [0, 0, 1, 1]


def test_too_few_are_repeated_equally_often():
    labels = np.array([[1, 0]] * 4 + [[0, 1]] * 3, bool)
    found = draw_tuples(labels, np.array([0]), 8, 7, seed=5, epoch=0)
    assert sorted(np.unique(found.positives, return_counts=True)[1]) == [2, 3, 3]
    assert sorted(np.unique(found.negatives, return_counts=True)[1]) == [2, 2, 3]


def test_soft_negatives_fill_up_once_the_hard_ones_are_used(shipped):
    labels = np.eye(8, dtype=bool)[[0, 0] + [4] * 3 + [1] * 10]  # Nucleus; Nucleus_export lies next to it; ER
    found = draw_tuples(labels, np.array([0]), 1, 7, seed=1, epoch=0, hardness_CC=shipped)
    assert sorted(found.negatives[0, :3]) == [2, 3, 4]
    assert len(set(found.negatives[0])) == 7 and (found.negatives[0, 3:] >= 5).all()


@pytest.mark.parametrize("mining", [False, True])
def test_draws_are_a_function_of_seed_epoch_and_anchor(mining, shipped):
    labels = random_labels(300)
    options = {"hardness_CC": shipped} if mining else {}
    state = np.random.get_state()[1].copy()
    whole = draw_tuples(labels, everyone(labels), 4, 9, seed=7, epoch=2, **options)
    backwards = draw_tuples(labels, everyone(labels)[::-1], 4, 9, seed=7, epoch=2, **options)
    assert np.array_equal(whole.positives, backwards.positives[::-1])
    assert np.array_equal(whole.negatives, backwards.negatives[::-1])
    for seed, epoch in [(8, 2), (7, 3)]:
        other = draw_tuples(labels, everyone(labels), 4, 9, seed=seed, epoch=epoch, **options)
        assert (whole.negatives != other.negatives).mean() > 0.5
    assert np.array_equal(np.random.get_state()[1], state)


def test_even_draws_are_even():
    labels = np.array([[1, 0]] * 6 + [[0, 1]] * 5, bool)
    counts = np.zeros(11)
    for epoch in range(2000):
        found = draw_tuples(labels, np.array([0]), 2, 2, seed=0, epoch=epoch)
        counts[found.positives[0]] += 1
        counts[found.negatives[0]] += 1
    assert counts[0] == 0
    np.testing.assert_allclose(counts[1:6], 800, atol=100)
    np.testing.assert_allclose(counts[6:], 800, atol=100)


def test_weighted_draws_follow_the_weights():
    near = np.array([[0, 0.7, 0.2, 0.1], [1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]])
    labels = np.eye(4, dtype=bool)[[0, 1, 2, 3]]
    counts = np.zeros(4)
    for epoch in range(4000):
        found = draw_tuples(labels, np.array([0]), 1, 1, seed=0, epoch=epoch, hardness_CC=near, weighted=True)
        counts[found.negatives[0, 0]] += 1
    np.testing.assert_allclose(counts / 4000, [0, 0.7, 0.2, 0.1], atol=0.03)


def test_tiny_weights_keep_their_ratio():
    labels = np.eye(3, dtype=bool)
    near = np.array([[0, 3e-9, 1e-9], [1, 0, 0], [1, 0, 0]])
    first = [
        draw_tuples(labels, np.array([0]), 1, 1, seed=0, epoch=e, hardness_CC=near, weighted=True).negatives[0, 0]
        for e in range(2000)
    ]
    assert np.mean(np.array(first) == 1) == pytest.approx(0.75, abs=0.04)


def test_weights_are_sums_over_pairs_of_classes():
    labels, near = random_labels(30, seed=3), random_hardness(2, k=3)
    found = weigh_negatives(labels, everyone(labels), near)
    for i, j in itertools.product(range(30), repeat=2):
        pairs = sum(near[c, d] for c in np.flatnonzero(labels[i]) for d in np.flatnonzero(labels[j]))
        assert found[i, j] == pytest.approx(0 if (labels[i] & labels[j]).any() else pairs)


def test_balanced_anchors_are_of_all_classes_alike():
    labels = np.eye(8, dtype=bool)[np.repeat(range(8), [1, 2, 3, 4, 0, 10, 20, 400])]
    everybody = everyone(labels)
    drawn = np.array([draw_anchors(labels, everybody, seed=0, epoch=epoch) for epoch in range(10)])
    shares = labels[drawn.ravel()].mean(0)
    assert shares[4] == 0 and np.delete(shares, 4) == pytest.approx(np.full(7, 1 / 7), abs=0.02)
    assert set(drawn[labels[drawn][..., 5]]) == set(np.flatnonzero(labels[:, 5]))


def test_a_balanced_anchor_depends_on_the_sample_it_stands_for_alone():
    labels = random_labels(60)
    all_of_them = draw_anchors(labels, everyone(labels), seed=1, epoch=2)
    assert np.array_equal(draw_anchors(labels, np.array([7, 3]), seed=1, epoch=2), all_of_them[[7, 3]])
    assert not np.array_equal(draw_anchors(labels, everyone(labels), seed=1, epoch=3), all_of_them)
    assert draw_anchors(np.zeros((4, 8), bool), np.array([2, 1]), seed=1, epoch=2).tolist() == [2, 1]


def test_regrouping_keeps_each_anchor_with_its_own():
    """A plain view of the rows, as in the first version of MUTarget, mixes anchors with each other's positives."""
    golden = load_golden("mutarget_regroup")
    B, positives, negatives = golden["B_npos_nneg"].tolist()
    rows = torch.arange(B * (1 + positives + negatives))[:, None]
    found = regroup(rows, positives, negatives)[..., 0]
    assert torch.equal(found, golden["order_index"])
    assert not torch.equal(found, golden["seed_era_view_index"])


@pytest.mark.parametrize("negatives", [0, 3])
def test_rows_and_regrouping_belong_together(negatives):
    labels = random_labels(40)
    found = draw_tuples(labels, np.array([3, 9, 1]), 2, negatives, seed=0, epoch=0)
    grouped = regroup(torch.from_numpy(found.rows())[:, None], 2, negatives)[..., 0]
    expected = np.concatenate([found.anchors[:, None], found.positives, found.negatives], 1)
    assert np.array_equal(grouped.numpy(), expected)
