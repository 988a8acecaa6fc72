"""Probes against scikit-learn and a plain loop, and at what is known to be reachable on the digits."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler, normalize

from runner.errors import DataError
from runner.evaluation import FrozenFeatures, knn, linear, linear_torch
from runner.evaluation._probe import accuracies

CPU = torch.device("cpu")
PROBES = [knn, linear, linear_torch]


def run(probe, train, test, **options):
    return probe.run(probe.Config(**options), train, test, CPU, 0)


def split_digits(pixels, labels):
    features, labels = torch.from_numpy(pixels).float(), torch.from_numpy(labels).long()
    return FrozenFeatures(features[:1000], labels[:1000]), FrozenFeatures(features[1000:], labels[1000:])


@pytest.fixture(scope="module")
def digits():
    """Raw pixels: the first 1000 to train on, the last 797 to test."""
    return split_digits(*load_digits(return_X_y=True))


@pytest.fixture(scope="module")
def standardised():
    pixels, labels = load_digits(return_X_y=True)
    return split_digits(StandardScaler().fit(pixels[:1000]).transform(pixels), labels)


def make_blobs(samples, classes=7, width=16, noise=3.0, seed=0):
    """Clusters that overlap, so that no probe is perfect."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(99))
    labels = torch.randint(0, classes, (samples,), generator=generator)
    return FrozenFeatures(centres[labels] + noise * torch.randn(samples, width, generator=generator), labels)


@pytest.mark.parametrize(("probe", "floor"), [(knn, 0.95), (linear, 0.93), (linear_torch, 0.93)])
def test_raw_digits_reach_their_floor(probe, floor, digits):
    found = run(probe, *digits)
    assert floor < found["top1"] < 0.97
    assert found["top1"] < 0.99 < found["top5"] <= 1


def test_knn_gives_the_known_figure_of_standardised_digits(standardised):
    """20 neighbours of equal weight, lower class first in a tie: 0.8871 (707 of 797)."""
    assert run(knn, *standardised, temperature=1e9)["top1"] == pytest.approx(707 / 797)


@pytest.mark.parametrize("temperature", [0.02, 0.1, 1.0])
def test_knn_equals_scikit_learn(temperature, standardised):
    train, test = standardised
    reference = KNeighborsClassifier(
        20, metric="cosine", weights=lambda distance: np.exp((1 - distance) / temperature)
    ).fit(train.features.double().numpy(), train.labels.numpy())
    expected = reference.score(test.features.double().numpy(), test.labels.numpy())
    assert run(knn, train, test, temperature=temperature)["top1"] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("chunk_values", [1, 2**24])
def test_knn_equals_a_plain_loop(chunk_values, monkeypatch):
    monkeypatch.setattr(knn, "CHUNK_VALUES", chunk_values)
    train, test = make_blobs(150), make_blobs(40, seed=1)
    top1 = top5 = 0
    for query, label in zip(test.features.double(), test.labels, strict=True):
        similarity = torch.nn.functional.cosine_similarity(query[None], train.features.double())
        votes = {}
        for neighbour in similarity.argsort(descending=True)[:9].tolist():
            voted = int(train.labels[neighbour])
            votes[voted] = votes.get(voted, 0) + float((similarity[neighbour] / 0.2).exp())
        ranking = sorted(votes, key=lambda voted: -votes[voted])
        top1 += int(label) == ranking[0]
        top5 += int(label) in ranking[:5]
    found = run(knn, train, test, k=9, temperature=0.2)
    assert found == {"top1": pytest.approx(top1 / 40), "top5": pytest.approx(top5 / 40)}
    assert found["top1"] < found["top5"]


def test_knn_with_fewer_samples_than_neighbours_and_a_tiny_temperature():
    train, test = make_blobs(12), make_blobs(30, seed=1)
    assert run(knn, train, test, k=50) == run(knn, train, test, k=12)
    # exp(1 / 0.001) alone would overflow.
    assert run(knn, train, test, k=12, temperature=0.001) == run(knn, train, test, k=12, temperature=0.01)


@pytest.mark.parametrize("C", [1.0, 10.0])
def test_linear_is_scikit_learn_on_rows_of_length_one(C, digits):
    train, test = digits
    reference = LogisticRegression(C=C, max_iter=1000).fit(normalize(train.features), train.labels)
    assert run(linear, train, test, C=C)["top1"] == reference.score(normalize(test.features), test.labels)


@pytest.mark.parametrize("C", [1.0, 10.0, 100.0])
def test_linear_torch_is_within_a_point_of_scikit_learn(C, digits):
    ours, reference = run(linear_torch, *digits, C=C), run(linear, *digits, C=C)
    assert ours["top1"] == pytest.approx(reference["top1"], abs=0.01)
    assert ours["top5"] == pytest.approx(reference["top5"], abs=0.01)


def test_linear_torch_finds_the_minimum_that_scikit_learn_finds():
    train = make_blobs(300)
    train = train._replace(features=torch.nn.functional.normalize(train.features, dim=1))
    weight, bias = linear_torch.fit(train, classes=7, C=2.0, max_iterations=500)
    reference = LogisticRegression(C=2.0, max_iter=5000, tol=1e-8).fit(train.features.double(), train.labels)
    torch.testing.assert_close(weight.double(), torch.from_numpy(reference.coef_), rtol=0.0, atol=2e-3)
    # Softmax leaves a common shift of the biases free.
    ours, theirs = bias.double(), torch.from_numpy(reference.intercept_)
    torch.testing.assert_close(ours - ours.mean(), theirs - theirs.mean(), rtol=0.0, atol=2e-3)


def test_linear_torch_does_not_depend_on_its_blocks(monkeypatch):
    train, test = make_blobs(200), make_blobs(100, seed=1)
    whole = run(linear_torch, train, test)
    monkeypatch.setattr(linear_torch, "BLOCK_VALUES", 7 * 30)
    assert run(linear_torch, train, test) == pytest.approx(whole, abs=0.011)


@pytest.mark.parametrize("probe", PROBES)
def test_the_same_again_whatever_the_length_of_the_rows(probe):
    train, test = make_blobs(200), make_blobs(100, seed=1)
    found = run(probe, train, test)
    assert run(probe, train, test) == found
    # A power of two changes no bit of the normalised rows.
    assert run(probe, train._replace(features=4 * train.features), test) == found


@pytest.mark.parametrize("probe", PROBES)
def test_a_class_that_was_never_trained_on_is_never_hit(probe):
    train = make_blobs(200)
    kept = train.labels < 2
    train = FrozenFeatures(train.features[kept], train.labels[kept])
    test = make_blobs(50, seed=1)
    only = FrozenFeatures(test.features[test.labels >= 2], test.labels[test.labels >= 2])
    assert run(probe, train, only) == {"top1": 0.0, "top5": 0.0}


@pytest.mark.parametrize("probe", PROBES)
def test_few_classes_have_no_top5(probe):
    assert set(run(probe, make_blobs(60, classes=5), make_blobs(20, classes=5, seed=1))) == {"top1"}
    assert set(run(probe, make_blobs(60, classes=6), make_blobs(20, classes=6, seed=1))) == {"top1", "top5"}


@pytest.mark.parametrize("probe", PROBES)
def test_one_class_is_refused(probe):
    lonely = FrozenFeatures(torch.randn(5, 3), torch.full((5,), 2))
    with pytest.raises(DataError, match="at least 2 classes"):
        run(probe, lonely, make_blobs(5, width=3))


def test_accuracies_by_hand():
    scores = torch.tensor([[0.1, 0.9, 0, 0, 0, 0], [5, 4, 3, 2, 1, 0], [5, 4, 3, 2, 1, 0], [0, 0, 0, 0, 0, 0]])
    assert accuracies(scores, torch.tensor([1, 4, 5, 0])) == {"top1": 0.5, "top5": 0.75}
    scores = torch.tensor([[1.0, -torch.inf, -torch.inf, -torch.inf, -torch.inf, -torch.inf]])
    assert accuracies(scores, torch.tensor([1])) == {"top1": 0.0, "top5": 0.0}
