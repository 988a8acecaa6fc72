"""Evaluations of embedded code, against scikit-learn, plain loops, golden and hand values."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.preprocessing import StandardScaler

from runner.dataset import Records
from runner.errors import ConfigError, DataError
from runner.evaluation import FrozenFeatures, name_recovery, provenance, retrieval, summarization
from runner.evaluation.name_recovery import choose_subtokens, fit, mark_subtokens
from runner.identifiers import split_name
from tests.golden import cases, load_golden

CPU = torch.device("cpu")


def blobs(samples, classes=3, width=8, noise=1.0, seed=0):
    """Overlapping clusters: features and labels."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(99))
    labels = torch.randint(0, classes, (samples,), generator=generator)
    return centres[labels] + noise * torch.randn(samples, width, generator=generator), labels


def frozen(features, labels=None, *, texts=None, **others):
    """One split with texts, as a method gives it."""
    data = Records({"x": torch.zeros(len(features), 1)}, labels, (), texts=texts or {})
    return FrozenFeatures(features, labels, others, data)


def run(probe, train, test, **options):
    return probe.run(probe.Config(**options), train, test, CPU, 0)


def test_retrieval_equals_the_golden_values():
    case = cases(load_golden("contrabin_metrics"))[0]
    found = run(retrieval, None, frozen(case["emb"], case["lab"]))
    assert found["features_to_features_map"] == pytest.approx(case["map"].item(), rel=1e-6)


def test_retrieval_across_modalities_equals_a_plain_loop():
    query, gallery = blobs(30, noise=2.0)[0], blobs(30, noise=2.0, seed=1)[0]
    test = frozen(query, torch.arange(30), comment=query, binary=gallery)
    found = run(retrieval, None, test, pairs=[("comment", "binary"), ("binary", "comment")], at=(3,))
    scores = cosine_similarity(query.double().numpy(), gallery.double().numpy())
    for name, rows in (("comment_to_binary", scores), ("binary_to_comment", scores.T)):
        places = [1 + int((row > row[i]).sum()) for i, row in enumerate(rows)]
        assert found[f"{name}_mrr"] == pytest.approx(sum(1 / place for place in places) / 30)
        assert found[f"{name}_recall_at_3"] == pytest.approx(sum(place <= 3 for place in places) / 30)
        assert found[f"{name}_queries"] == 30


def test_retrieval_does_not_depend_on_the_size_of_a_block(monkeypatch):
    (query, labels), (gallery, _) = blobs(40, seed=1), blobs(40, seed=2)
    test, pairs = frozen(query, labels, other=gallery), [("features", "features"), ("features", "other")]
    whole = run(retrieval, None, test, pairs=pairs)
    monkeypatch.setattr(retrieval, "BLOCK_VALUES", 90)
    assert run(retrieval, None, test, pairs=pairs) == whole


def test_a_pool_is_the_same_for_every_seed():
    query, gallery = blobs(60)[0], blobs(60, seed=1)[0]
    test = frozen(query, torch.arange(60), other=gallery)
    config = retrieval.Config(pairs=[("features", "other")], pool=20)
    found = [retrieval.run(config, None, test, CPU, seed) for seed in (0, 1)]
    assert found[0] == found[1] and found[0]["features_to_other_queries"] == 20
    assert len(retrieval.draw_pool(60, 20).unique()) == 20
    assert torch.equal(retrieval.draw_pool(60, None), torch.arange(60))
    assert torch.equal(retrieval.draw_pool(60, 99), torch.arange(60))


def test_one_point_for_everything_is_chance():
    query = torch.randn(1, 33).expand(50, -1)
    found = run(retrieval, None, frozen(query, torch.arange(50), other=query), pairs=[("features", "other")])
    assert found["features_to_other_mrr"] == pytest.approx(1 / 25.5)
    assert found["features_to_other_recall_at_10"] == 0


def test_labels_that_are_unique_ids_are_refused():
    """A reference system labels every sample with its own index, so that each of its figures is 0."""
    x = torch.randn(5, 3)
    with pytest.raises(DataError, match="none of 5 queries has its label in the gallery; choose another label"):
        run(retrieval, None, frozen(x, torch.arange(5)))


def test_the_label_can_be_a_text():
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1], [0.1, 1.0]])
    test = frozen(x, torch.arange(4), texts={"function": ("f", "g", "f", "g")})
    assert run(retrieval, None, test, label="function")["features_to_features_recall_at_1"] == 1
    with pytest.raises(ConfigError, match="no text 'package'; it has function"):
        run(retrieval, None, test, label="package")
    with pytest.raises(ConfigError, match="gives no 'comment'; it gives features"):
        run(retrieval, None, test, pairs=[("comment", "features")])


def test_without_labels_retrieval_asks_for_a_text():
    with pytest.raises(DataError, match="choose a text"):
        run(retrieval, None, frozen(torch.randn(4, 2)))


def test_provenance_equals_scikit_learn():
    (train, level), (test, wanted) = blobs(200), blobs(100, seed=1)
    heads = [
        {"level": [f"O{i}" for i in labels], "compiler": ["gcc" if row[0] > 0 else "clang" for row in rows]}
        for rows, labels in ((train, level), (test, wanted))
    ]
    found = run(provenance, frozen(train, texts=heads[0]), frozen(test, texts=heads[1]), heads=["level", "compiler"])
    scaler = StandardScaler().fit(train.double().numpy())
    model = LogisticRegression(max_iter=1000).fit(scaler.transform(train.double().numpy()), level.numpy())
    hits = torch.from_numpy(model.predict(scaler.transform(test.double().numpy()))) == wanted
    assert found["level_accuracy"] == pytest.approx(hits.double().mean().item())
    assert found["level_majority"] == (wanted == level.bincount().argmax()).double().mean().item()
    assert found["compiler_accuracy"] > 0.9
    assert found["level_majority"] < found["joint_accuracy"] <= found["level_accuracy"]


def test_a_level_that_training_lacks_counts_as_missed():
    """A reference system maps levels it does not know to O0, where they count as right."""
    x = torch.tensor([[0.0], [1.0], [0.0], [1.0]])
    known = frozen(x, texts={"level": ("O0", "O1", "O0", "O1")})
    unknown = frozen(x, texts={"level": ("2", "O1", "2", "O1")})
    assert run(provenance, known, unknown)["level_accuracy"] == 0.5


def test_provenance_of_one_class_is_refused():
    split = frozen(torch.randn(4, 2), texts={"level": ("O2",) * 4})
    with pytest.raises(DataError, match="4 training samples have the same level"):
        run(provenance, split, split)


def test_the_multi_label_fit_is_a_logistic_regression_for_each_label():
    features, labels = blobs(120, classes=4, width=5)
    features, marks = features.double(), torch.nn.functional.one_hot(labels, 4).double()
    weight, bias = fit(features, marks, 0.7, 500)
    for s in range(4):
        model = LogisticRegression(C=0.7, tol=1e-8, max_iter=5000).fit(features.numpy(), marks[:, s].numpy())
        torch.testing.assert_close(weight[s], torch.from_numpy(model.coef_[0]), rtol=1e-3, atol=1e-4)
        assert bias[s].item() == pytest.approx(model.intercept_[0], rel=1e-3, abs=1e-4)


def test_names_are_recovered_from_features_that_hold_them():
    """Each sub-token has a direction of its own; the last name has a word that training never saw."""
    words = ["get", "set", "list", "node", "count"]
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(len(words), 16, generator=generator)
    names = [f"{a}_{b}" for a in words for b in words if a != b] * 3
    marks = torch.tensor([[float(word in split_name(name)) for word in words] for name in names])
    noisy = marks @ directions + 0.01 * torch.randn(len(names), 16, generator=generator)
    train, test = frozen(noisy[20:], texts={"name": names[20:]}), frozen(noisy[:20], texts={"name": names[:20]})
    assert run(name_recovery, train, test, C=100.0) == {"subtoken_f1": 1.0, "exact_match": 1.0, "coverage": 1.0}
    unseen = frozen(noisy[:2], texts={"name": ["get_set", "get_unseen"]})
    found = run(name_recovery, train, unseen, C=100.0)
    assert found["coverage"] == 3 / 4
    assert found["exact_match"] == 0.5
    assert 0.5 < found["subtoken_f1"] < 1


def test_the_vocabulary_of_names():
    names = ["b_a", "a_c", "a_a_a", "d"]
    assert choose_subtokens(names, 3) == ["a", "b", "c"]
    assert mark_subtokens(names, ["a", "c"]).tolist() == [[1, 0], [1, 1], [1, 0], [0, 0]]
    split = frozen(torch.randn(2, 3), texts={"name": ["_", ""]})
    with pytest.raises(DataError, match="2 training names hold no sub-token"):
        run(name_recovery, split, split)


def test_the_nearest_comment_is_the_summary():
    comments = ["Frees the list.", "Counts all nodes of a list.", "Swap two bytes in a word."]
    train = frozen(torch.zeros(3, 1), texts={"comment": comments}, comment=torch.eye(3))
    query = torch.tensor([[0.1, 9.0, 0.2], [0.0, 0.1, 0.05]])
    references = [comments[1], "Swap two words in a byte."]
    found = run(summarization, train, frozen(query, texts={"comment": references}, binary=query))
    assert found["exact_match"] == 0.5
    assert 0 < found["bleu"] < found["rouge_l"] < 1
    perfect = run(summarization, train, train, query="comment")
    assert perfect == {"bleu": 1.0, "rouge_l": 1.0, "exact_match": 1.0}


def test_nearest_is_by_cosine():
    query, gallery = blobs(30)[0], blobs(50, seed=3)[0]
    expected = cosine_similarity(query.numpy(), gallery.numpy()).argmax(axis=1)
    assert summarization.nearest_rows(query, gallery).tolist() == expected.tolist()


def test_images_have_no_texts():
    features = FrozenFeatures(torch.randn(4, 2), torch.zeros(4, dtype=torch.long))
    with pytest.raises(ConfigError, match="no text 'name'; it has no texts"):
        run(name_recovery, features, features)
