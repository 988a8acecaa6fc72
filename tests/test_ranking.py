"""Ranking metrics against a plain loop, hand values, and the arrays of the system they replace."""

import pytest
import torch
from torch.nn import functional as F

from runner.ranking import rank, summarise
from tests.golden import cases, load_golden


def naive(scores, positive, candidate):
    """(first place, average precision) of one query, item by item; None without a positive."""
    items = [i for i in range(len(scores)) if candidate[i]]
    positives = [i for i in items if positive[i]]
    negatives = [i for i in items if not positive[i]]

    def before(i, others):
        return sum(1.0 if scores[j] > scores[i] else 0.5 for j in others if j != i and scores[j] >= scores[i])

    if not positives:
        return None
    precisions = []
    for i in positives:
        hits = 1 + before(i, positives)
        precisions.append(hits / (hits + before(i, negatives)))
    return 1 + min(before(i, negatives) for i in positives), sum(precisions) / len(positives)


@pytest.mark.parametrize("levels", [2, 4, 1000])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_places_equal_a_plain_loop_with_and_without_ties(levels, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, levels, (30, 17), generator=generator).float() / 7
    positive = torch.rand(30, 17, generator=generator) < 0.15
    candidate = torch.rand(30, 17, generator=generator) < 0.8
    expected = [naive(*rows) for rows in zip(scores.tolist(), positive.tolist(), candidate.tolist(), strict=True)]
    expected = torch.tensor([pair for pair in expected if pair is not None], dtype=torch.float64)
    assert 0 < len(expected) < 30
    found = rank(scores, positive, candidate)
    torch.testing.assert_close(found.first, expected[:, 0])
    torch.testing.assert_close(found.average_precision, expected[:, 1])


@pytest.mark.parametrize("index", [0, 1, 2])
def test_metrics_equal_the_golden_ones(index):
    case = cases(load_golden("contrabin_metrics"))[index]
    unit = F.normalize(case["emb"], dim=1)
    same = case["lab"][:, None] == case["lab"]
    others = ~torch.eye(len(same), dtype=torch.bool)
    found = summarise(rank(unit @ unit.T, same, others))
    # Queries without a positive count as 0 in the golden MRR and recall; here they do not count at all.
    share = (same & others).any(1).double().mean().item()
    assert found["queries"] == (same & others).any(1).sum()
    assert found["map"] == pytest.approx(case["map"].item(), rel=1e-6)
    assert found["mrr"] * share == pytest.approx(case["mrr"].item(), rel=1e-6)
    for k, expected in zip((1, 5, 10), case["recall"].tolist(), strict=True):
        assert found[f"recall_at_{k}"] * share == pytest.approx(expected, rel=1e-6)


def test_a_query_without_positive_is_left_out_everywhere():
    case = cases(load_golden("contrabin_metrics"))[3]
    same = case["lab"][:, None] == case["lab"]
    others = ~torch.eye(len(same), dtype=torch.bool)
    assert summarise(rank(case["emb"] @ case["emb"].T, same, others)) == {"queries": 0.0}
    scores = torch.tensor([[0.9, 0.1], [0.9, 0.1]])
    assert summarise(rank(scores, torch.tensor([[False, True], [False, False]])), at=(1, 2)) == {
        "queries": 1.0,
        "map": 0.5,
        "mrr": 0.5,
        "recall_at_1": 0.0,
        "recall_at_2": 1.0,
    }


def test_a_collapsed_encoder_is_as_good_as_chance():
    """One positive among N equal items stands at place (N + 1) / 2."""
    found = rank(torch.zeros(9, 9), torch.eye(9, dtype=torch.bool))
    assert found.first.tolist() == [5.0] * 9
    assert found.average_precision.tolist() == [1 / 5] * 9


def test_equal_positives_do_not_stand_in_each_others_way():
    found = rank(torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([[True, True, False]]))
    assert (found.first.item(), found.average_precision.item()) == (1.0, 1.0)
