"""Figures of multi-label scores against scikit-learn, and classes that have no figure."""

import warnings

import numpy as np
import pytest
from sklearn import metrics

from runner.evaluation._multilabel import CUTOFFS, report, site_accuracy

CLASSES = tuple("ABCDE")


@pytest.fixture(scope="module")
def data():
    generator = np.random.default_rng(0)
    labels = generator.random((200, 5)) < [0.5, 0.3, 0.1, 0.02, 0.6]
    labels[0] = True
    scores = np.clip(0.3 * labels + 0.7 * generator.random((200, 5)), 0, 1).round(2)
    return scores, labels


@pytest.mark.parametrize("c", range(5))
def test_areas_are_scikit_learns(data, c):
    scores, labels = data
    found = report(scores, labels, CLASSES)
    assert found.auroc[c] == pytest.approx(metrics.roc_auc_score(labels[:, c], scores[:, c]))
    assert found.auprc[c] == pytest.approx(metrics.average_precision_score(labels[:, c], scores[:, c]))


@pytest.mark.parametrize("k", range(9))
def test_figures_at_every_cutoff_are_scikit_learns(data, k):
    scores, labels = data
    found = report(scores, labels, CLASSES)
    predicted = scores >= CUTOFFS[k]
    for c in range(5):
        pair = labels[:, c], predicted[:, c]
        assert found.f1[k, c] == pytest.approx(metrics.f1_score(*pair, zero_division=0))
        assert found.precision[k, c] == pytest.approx(metrics.precision_score(*pair, zero_division=0))
        assert found.recall[k, c] == pytest.approx(metrics.recall_score(*pair, zero_division=0))
        assert found.mcc[k, c] == pytest.approx(metrics.matthews_corrcoef(*pair))
        (tn, fp), (fn, tp) = metrics.confusion_matrix(*pair, labels=[False, True])
        rates = tp / (tp + fn), fp / (fp + tn), fn / (tp + fn)
        assert found.iou[k, c] == pytest.approx(rates[0] / sum(rates))


def test_means_are_scikit_learns(data):
    scores, labels = data
    found = report(scores, labels, CLASSES).summary(cutoff=0.6)
    predicted = scores >= 0.6
    for mean in ("macro", "micro"):
        assert found[f"auroc_{mean}"] == pytest.approx(metrics.roc_auc_score(labels, scores, average=mean))
        assert found[f"auprc_{mean}"] == pytest.approx(metrics.average_precision_score(labels, scores, average=mean))
        values = metrics.precision_recall_fscore_support(labels, predicted, average=mean, zero_division=0)
        for name, value in zip(("precision", "recall", "f1"), values, strict=False):
            assert found[f"{name}_{mean}"] == pytest.approx(value)


def test_a_class_without_positives_is_reported_and_counts_in_no_mean(data):
    scores, labels = data
    empty = np.concatenate([labels, np.zeros((200, 1), bool)], 1)
    more = np.concatenate([scores, np.full((200, 1), 0.9)], 1)
    found, without = report(more, empty, (*CLASSES, "F")), report(scores, labels, CLASSES)
    assert found.left_out == ("F",) and without.left_out == ()
    assert np.isnan(found.auroc[5]) and np.isnan(found.f1[:, 5]).all() and found.positives[5] == 0
    assert found.summary() == without.summary()


def test_a_class_of_positives_alone_has_no_auroc(data):
    scores, labels = data
    labels = labels.copy()
    labels[:, 1] = True
    found = report(scores, labels, CLASSES)
    assert np.isnan(found.auroc[1]) and found.auprc[1] == 1
    assert found.summary()["auroc_macro"] == pytest.approx(found.auroc[[0, 2, 3, 4]].mean())
    assert "auroc_B" not in found.summary()


def test_labels_without_any_class_leave_an_empty_summary():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = report(np.full((3, 2), 0.5), np.zeros((3, 2), bool), "AB")
        assert not [name for name in found.summary() if "macro" in name or "auroc" in name]
        assert found.left_out == ("A", "B")


def test_site_accuracy_is_the_share_of_proteins_whose_best_residue_is_marked():
    protein = np.array([0, 0, 0, 1, 1, 2, 2, 2])
    targets = np.array([[0, 1], [1, 0], [0, 0], [1, 0], [0, 0], [0, 0], [0, 1], [0, 1]], bool)
    scores = np.array([[0, 9], [5, 0], [1, 0], [0, 0], [3, 0], [0, 0], [0, 4], [0, 2]])
    # class A: found in protein 0, missed in protein 1; class B: found in 0, and in 2 at the first marked residue
    assert site_accuracy(scores, targets, protein, "ABC") == {"A": 0.5, "B": 1.0}
