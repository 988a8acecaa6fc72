"""Probes of samples with several classes, on clusters that overlap and for classes that are missing."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.preprocessing import StandardScaler

from runner.evaluation import FrozenFeatures, class_calls, multilabel

CPU = torch.device("cpu")
PROBES = [multilabel, class_calls]


def run(probe, train, test, seed=0, **options):
    return probe.run(probe.Config(**options), train, test, CPU, seed)


def make_blobs(samples, classes=4, noise=1.0, seed=0):
    """Each class has a direction of its own; a sample is the sum of its classes' and noise."""
    generator = torch.Generator().manual_seed(seed)
    directions = 3 * torch.randn(classes, 12, generator=torch.Generator().manual_seed(99))
    labels = (torch.rand(samples, classes, generator=generator) < 0.3).float()
    return FrozenFeatures(labels @ directions + noise * torch.randn(samples, 12, generator=generator), labels)


def test_multilabel_is_scikit_learn_class_by_class():
    train, test = make_blobs(200, noise=4.0), make_blobs(100, noise=4.0, seed=1)
    scaler = StandardScaler().fit(train.features.double())
    areas = []
    for label in range(4):
        model = LogisticRegression(C=0.1, class_weight="balanced", max_iter=2000)
        model.fit(scaler.transform(train.features.double()), train.labels[:, label])
        scores = model.predict_proba(scaler.transform(test.features.double()))[:, 1]
        areas.append(average_precision_score(test.labels[:, label], scores))
    found = run(multilabel, train, test, C=0.1)
    assert found["auprc_macro"] == pytest.approx(np.mean(areas))
    assert [found[f"auprc_{label}"] for label in range(4)] == pytest.approx(areas)
    assert 0.5 < found["f1_macro"] < 1


@pytest.mark.parametrize("probe", PROBES)
def test_the_same_again(probe):
    train, test = make_blobs(100), make_blobs(50, seed=1)
    assert run(probe, train, test) == run(probe, train, test)


@pytest.mark.parametrize("probe", PROBES)
def test_classes_that_are_missing_leave_no_nan(probe):
    train, test = make_blobs(100), make_blobs(50, seed=1)
    train.labels[:, 0], test.labels[:, 1], train.labels[:, 2] = 0, 0, 1
    found = run(probe, train, test)
    assert found and all(np.isfinite(value) for value in found.values())


def test_a_class_never_trained_on_is_never_predicted():
    train, test = make_blobs(100), make_blobs(50, seed=1)
    train.labels[:, 0], train.labels[:, 1:] = 0, 1
    found = run(multilabel, train, test)
    assert found["auroc_0"] == 0.5 and found["recall_macro"] == 0.75


@pytest.mark.parametrize("probe", PROBES)
def test_numbered_labels_are_one_class_each(probe):
    labels = torch.arange(90) % 3
    features = torch.eye(3)[labels] + 0.05 * torch.randn(90, 3, generator=torch.Generator().manual_seed(0))
    found = run(probe, FrozenFeatures(features, labels), FrozenFeatures(features, labels))
    name = "separation_f1" if probe is class_calls else "f1_macro"
    assert found[name] == 1.0


def test_calls_find_clusters_and_random_samples_go_by_the_seed():
    labels = torch.eye(4)[torch.arange(80) % 4]
    train = FrozenFeatures(5 * labels + torch.randn(80, 4, generator=torch.Generator().manual_seed(0)), labels)
    found = run(class_calls, train, train, p_value=0.3)
    assert set(found) == {
        f"{way}_{n}" for way in ("separation", "p_value") for n in ("precision", "recall", "f1", "auroc")
    }
    assert found["separation_recall"] > 0.95 and found["p_value_recall"] > 0.95
    few = [run(class_calls, train, train, seed=seed, p_value=0.3, random_samples=5) for seed in range(3)]
    assert len({tuple(values.items()) for values in few}) > 1
