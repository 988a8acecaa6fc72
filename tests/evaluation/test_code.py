"""Downstream tasks on frozen features, against scikit-learn, plain loops and hand values."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.preprocessing import StandardScaler

from runner.errors import DataError
from runner.identifiers import split_name
from runner.tasks import retrieval as retrieval_module
from runner.tasks.name_recovery import choose_subtokens, fit, mark_subtokens, name_recovery
from runner.tasks.provenance import provenance
from runner.tasks.retrieval import retrieval
from runner.tasks.summarization import nearest_rows, summarization
from tests.golden import cases, load_golden


def blobs(samples, classes=3, width=8, noise=1.0, seed=0):
    """Overlapping clusters: features and labels."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(99))
    labels = torch.randint(0, classes, (samples,), generator=generator)
    return centres[labels] + noise * torch.randn(samples, width, generator=generator), labels


def test_retrieval_equals_the_golden_values():
    case = cases(load_golden("contrabin_metrics"))[0]
    found = retrieval(case["emb"], case["emb"], case["lab"], case["lab"], leave_out_self=True)
    assert found["map"] == pytest.approx(case["map"].item(), rel=1e-6)
    assert found["queries"] + found["queries_without_positive"] == 20


@pytest.mark.parametrize("leave_out_self", [True, False])
def test_retrieval_does_not_depend_on_the_size_of_a_block(monkeypatch, leave_out_self):
    (query, labels), (gallery, other) = blobs(40, seed=1), blobs(40, seed=2)
    whole = retrieval(query, gallery, labels, other, leave_out_self=leave_out_self)
    monkeypatch.setattr(retrieval_module, "BLOCK_VALUES", 90)
    assert retrieval(query, gallery, labels, other, leave_out_self=leave_out_self) == whole


def test_one_point_for_everything_is_chance():
    query = torch.randn(1, 33).expand(50, -1)
    found = retrieval(query, query, torch.arange(50), torch.arange(50))
    assert found["mrr"] == pytest.approx(1 / 25.5)
    assert found["recall_at_10"] == 0


def test_labels_of_which_each_is_alone_are_explained():
    x = torch.randn(5, 3)
    with pytest.raises(DataError, match="none of 5 queries has its label in the gallery"):
        retrieval(x, x, torch.arange(5), torch.arange(5), leave_out_self=True)


def test_provenance_equals_scikit_learn():
    (train, level), (test, wanted) = blobs(200), blobs(100, seed=1)
    compiler, wanted_compiler = (train[:, 0] > 0).long(), (test[:, 0] > 0).long()
    found = provenance(
        train, {"level": level, "compiler": compiler}, test, {"level": wanted, "compiler": wanted_compiler}
    )
    scaler = StandardScaler().fit(train.double().numpy())
    model = LogisticRegression(max_iter=1000).fit(scaler.transform(train.double().numpy()), level.numpy())
    hits = torch.from_numpy(model.predict(scaler.transform(test.double().numpy()))) == wanted
    assert found["level_accuracy"] == pytest.approx(hits.double().mean().item())
    assert found["level_majority"] == (wanted == level.bincount().argmax()).double().mean().item()
    assert found["compiler_accuracy"] > 0.9
    assert found["level_majority"] < found["joint_accuracy"] <= found["level_accuracy"]


def test_provenance_of_one_class_is_refused():
    x = torch.randn(4, 2)
    labels = {"level": torch.zeros(4, dtype=torch.long)}
    with pytest.raises(DataError, match="4 training samples have the same level"):
        provenance(x, labels, x, labels)


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
    found = name_recovery(noisy[20:], names[20:], noisy[:20], names[:20], C=100.0)
    assert found == {"subtoken_f1": 1.0, "exact_match": 1.0, "coverage": 1.0}
    found = name_recovery(noisy[20:], names[20:], noisy[:2], ["get_set", "get_unseen"], C=100.0)
    assert found["coverage"] == 3 / 4
    assert found["exact_match"] == 0.5
    assert 0.5 < found["subtoken_f1"] < 1


def test_the_vocabulary_of_names():
    names = ["b_a", "a_c", "a_a_a", "d"]
    assert choose_subtokens(names, 3) == ["a", "b", "c"]
    assert mark_subtokens(names, ["a", "c"]).tolist() == [[1, 0], [1, 1], [1, 0], [0, 0]]
    with pytest.raises(DataError, match="2 training names hold no sub-token"):
        name_recovery(torch.randn(2, 3), ["_", ""], torch.randn(1, 3), ["a"])


def test_the_nearest_comment_is_the_summary():
    comments = ["Frees the list.", "Counts all nodes of a list.", "Swap two bytes in a word."]
    gallery = torch.eye(3)
    query = torch.tensor([[0.1, 9.0, 0.2], [0.0, 0.1, 0.05]])
    found = summarization(query, [comments[1], "Swap two words in a byte."], gallery, comments)
    assert found["exact_match"] == 0.5
    assert 0 < found["bleu"] < found["rouge_l"] < 1
    perfect = summarization(gallery, comments, gallery, comments)
    assert perfect == {"bleu": 1.0, "rouge_l": 1.0, "exact_match": 1.0}
    with pytest.raises(DataError, match="no training comments"):
        summarization(query, comments[:2], gallery[:0], [])


def test_nearest_is_by_cosine():
    query, gallery = blobs(30)[0], blobs(50, seed=3)[0]
    expected = cosine_similarity(query.numpy(), gallery.numpy()).argmax(axis=1)
    assert nearest_rows(query, gallery).tolist() == expected.tolist()
