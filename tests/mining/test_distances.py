"""Class distances against CLEAN's arrays, and what files and empty classes can do to them."""

import json

import numpy as np
import pytest
import torch

from runner.errors import DataError
from runner.mining.distances import centre_distances, class_centres, hardness, near_classes, read_distances
from tests.golden import load_golden

CLASSES = "A", "B", "C"


@pytest.fixture(scope="module")
def golden():
    return load_golden("clean_mining")


def labels_of(sizes):
    return torch.block_diag(*[torch.ones(int(size), 1) for size in sizes])


def test_distances_of_centres_are_cleans(golden):
    centres = class_centres(golden["emb"], labels_of(golden["sizes"]))
    torch.testing.assert_close(centre_distances(centres), golden["dist"], rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(centre_distances(centres, unit=True), golden["dist_dot"], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("k", [3, 10])
def test_near_classes_and_their_weights_are_cleans(golden, k):
    near, weights = near_classes(golden["dist"].numpy(), k)
    count = golden[f"knn{k}_idx"].shape[1]
    assert np.array_equal(near[:, :count], golden[f"knn{k}_idx"])
    np.testing.assert_allclose(weights[:, :count], golden[f"knn{k}_w"], rtol=1e-6)
    assert ((near >= 0).sum(1) == golden[f"knn{k}_len"].numpy()).all()
    assert (near[:, count:] == -1).all() and (weights[:, count:] == 0).all()


def test_centres_are_means_over_all_members_of_a_class():
    embeddings = torch.randn(20, 3, dtype=torch.float64)
    labels = torch.rand(20, 4) < 0.4
    for centre, members in zip(class_centres(embeddings, labels), labels.T, strict=True):
        torch.testing.assert_close(centre, embeddings[members].mean(0))


def test_no_gradient_and_no_half_precision_reach_the_centres():
    embeddings = torch.randn(6, 3, dtype=torch.bfloat16, requires_grad=True)
    centres = class_centres(embeddings, labels_of([2, 4]))
    assert centres.dtype == torch.float64 and not centres.requires_grad


def test_a_class_without_members_is_nobodys_neighbour():
    labels = torch.cat([labels_of([2, 3, 2]), torch.zeros(7, 1)], 1)
    distances = centre_distances(class_centres(torch.randn(7, 5), labels))
    assert distances[3, :3].isinf().all() and distances.diagonal().eq(0).all()
    near, weights = near_classes(distances.numpy(), 3)
    assert (near[3] == -1).all() and (weights[3] == 0).all() and (near != 3).all()
    np.testing.assert_allclose(weights[:3].sum(1), 1)


def test_equal_centres_are_no_neighbours():
    distances = np.array([[0, 0, 2.0], [0, 0, 1.0], [2.0, 1.0, 0]])
    assert near_classes(distances)[0].ravel().tolist() == [2, 2, 1]


def test_hardness_has_the_weights_in_their_columns():
    generator = np.random.default_rng(0)
    points = generator.normal(size=(6, 3))
    distances = np.linalg.norm(points[:, None] - points, axis=2)
    found = hardness(distances, 2)
    for row, values in enumerate(found):
        nearest = sorted((set(range(6)) - {row}), key=lambda other: distances[row, other])[:2]
        total = sum(1 / distances[row, other] for other in nearest)
        expected = [1 / distances[row, other] / total if other in nearest else 0 for other in range(6)]
        np.testing.assert_allclose(values, expected)
    assert set(np.unique(hardness(distances))) == {0.0, 1.0}
    np.testing.assert_allclose(hardness(distances, 99).sum(1), 1)


def write(path, **changes):
    rows = {a: {b: float(abs(ord(a) - ord(b))) for b in CLASSES} for a in CLASSES} | changes
    path.write_text(json.dumps(rows))
    return path


def test_a_file_is_read_in_the_order_of_the_classes(tmp_path):
    path = write(tmp_path / "map.json")
    assert read_distances(path, ["C", "A", "B"]).tolist() == [[0, 2, 1], [2, 0, 1], [1, 1, 0]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "map.json: not JSON: "),
        ('{"A": {"A": 0}}', "map.json: has no distance from A to B"),
        ("[]", "map.json: has no distance from A to A"),
        (json.dumps({a: {b: "1" for b in CLASSES} for a in CLASSES}), "from A to A is '1', should be a number"),
        (json.dumps({a: {b: -1 for b in CLASSES} for a in CLASSES}), "from A to A is -1, should be a number"),
        ('{"A": {"A": NaN}}', "from A to A is nan, should be a number"),
        (json.dumps({a: dict.fromkeys(CLASSES, ord(a)) for a in CLASSES}), "from A to B is not as far as from B to A"),
    ],
)
def test_a_broken_file_is_named_in_one_line(tmp_path, content, message):
    (tmp_path / "map.json").write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        read_distances(tmp_path / "map.json", CLASSES)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.json: cannot be read: No such file"):
        read_distances(tmp_path / "none.json", CLASSES)
