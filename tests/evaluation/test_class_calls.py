"""Calls by distance against CLEAN's arrays and naive counts."""

import numpy as np
import pytest
import torch
from sklearn import metrics

from runner.evaluation._class_calls import (
    call_by_p_value,
    call_metrics,
    call_scores,
    distances_to_centres,
    draw_random_rows,
    find_cut,
    max_separation,
    p_values,
)
from tests.golden import load_golden


@pytest.mark.parametrize(("rule", "name"), [("first", "first_grad"), ("last", "last_grad"), ("largest", "max_grad")])
def test_cuts_are_cleans(rule, name):
    golden = load_golden("clean_maxsep")
    assert np.array_equal(find_cut(golden["dist"].numpy(), rule), golden[f"idx_{name}"])


def test_the_classes_up_to_the_cut_are_called():
    golden = load_golden("clean_maxsep")
    generator = np.random.default_rng(0)
    distances = np.concatenate([golden["dist"].numpy(), 1e3 + generator.random((40, 5))], 1)
    shuffled = generator.permuted(distances, axis=1)
    calls = max_separation(shuffled)
    for row, called, cut in zip(shuffled, calls, golden["idx_first_grad"], strict=True):
        assert sorted(row[called]) == sorted(row)[: cut + 1]


@pytest.mark.parametrize("classes", [1, 2, 8, 10, 30])
def test_max_separation_survives_equal_distances(classes):
    calls = max_separation(np.full((3, classes), 0.7))
    assert (calls.sum(1) == 1).all()


def test_fewer_than_ten_classes():
    assert max_separation(np.array([[0.1, 5.0, 5.1], [5.0, 0.2, 0.1]])).tolist() == [
        [True, False, False],
        [False, True, True],
    ]


def test_a_class_without_centre_is_never_called():
    centres = torch.tensor([[0.0, 0.0], [torch.nan, torch.nan], [3.0, 4.0]])
    distances = distances_to_centres(torch.tensor([[0.0, 0.0], [3.0, 3.0]], dtype=torch.bfloat16), centres)
    np.testing.assert_allclose(distances, [[0, np.inf, 5], [18**0.5, np.inf, 1]], atol=1e-7)
    for calls in (max_separation(distances), call_by_p_value(distances, np.full((4, 3), np.inf))):
        assert not calls[:, 1].any() and calls.any(1).all()


def test_p_values_count_the_random_samples_that_are_nearer():
    generator = np.random.default_rng(0)
    distances, random = generator.random((7, 4)).round(1), generator.random((50, 4)).round(1)
    expected = [[np.mean(random[:, c] < row[c]) for c in range(4)] for row in distances]
    np.testing.assert_allclose(p_values(distances, random), expected)


def test_calls_by_p_value():
    random = np.linspace(1, 2, 100)[:, None].repeat(3, 1)
    distances = np.array([[0.5, 0.9, 1.5], [1.8, 1.7, 1.9], [1.005, 5, 5]])
    assert call_by_p_value(distances, random).tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]
    assert call_by_p_value(distances, random, threshold=0.5).tolist() == [[1, 1, 1], [0, 1, 0], [1, 0, 0]]


def test_random_rows_are_drawn_by_class_and_seed():
    labels = np.eye(3, dtype=bool)[[0] * 90 + [1] * 10]
    rows = draw_random_rows(labels, 4000, seed=1)
    assert np.mean(rows >= 90) == pytest.approx(0.5, abs=0.03)
    assert np.mean(draw_random_rows(labels, 4000, seed=1, by_class=False) >= 90) == pytest.approx(0.1, abs=0.02)
    assert np.array_equal(rows, draw_random_rows(labels, 4000, seed=1))
    assert not np.array_equal(rows, draw_random_rows(labels, 4000, seed=2))
    assert len(set(rows)) == 100


def test_scores_of_calls():
    distances = np.array([[0.0, 1.0, 2.0], [0.5, 0.5, 0.1]])
    calls = np.array([[True, True, False], [True, True, False]])
    tanh = np.tanh(0.5)
    np.testing.assert_allclose(
        call_scores(distances, calls), [[1 / (1 + tanh), tanh / (1 + tanh), 0], [0.5, 0.5, 0]], rtol=1e-12
    )
    odds = 1 - np.exp(-1 / distances[1]), 1 + np.exp(-1 / distances[1])
    np.testing.assert_allclose(np.tanh(0.5 / distances[1]), odds[0] / odds[1])


def test_metrics_of_calls_are_scikit_learns():
    generator = np.random.default_rng(0)
    labels, calls = generator.random((60, 4)) < 0.3, generator.random((60, 4)) < 0.4
    scores = generator.random((60, 4)) * calls
    found = call_metrics(calls, scores, labels)
    assert found["f1"] == pytest.approx(metrics.f1_score(labels, calls, average="weighted"))
    assert found["auroc"] == pytest.approx(metrics.roc_auc_score(labels, scores, average="weighted"))
    labels[:, 0], labels[:, 1:] = True, False
    assert set(call_metrics(calls, scores, labels)) == {"precision", "recall", "f1"}
