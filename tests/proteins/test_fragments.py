"""Fragments against MUTarget's arrays and a naive reassembly, without its fragments of nothing but overlap."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from runner.proteins.fragments import Joined, fragment_starts, join_fragments, pool_max, pool_mean
from tests.golden import cases, load_golden

SIZE, OVERLAP = 20, 5


def golden_cases():
    return cases(load_golden("mutarget_fragments"))


@pytest.mark.parametrize("index", range(9))
def test_fragments_are_mutargets_less_those_of_pure_overlap(index):
    case = golden_cases()[index]
    sequence = str(case["seq"])
    found = [sequence[start : start + SIZE] for start in fragment_starts(len(sequence), SIZE, OVERLAP)]
    upstream = case["frags"].tolist()
    extra = upstream[len(found) :]
    assert found == upstream[: len(found)]
    assert [len(fragment) for fragment in extra] == ([OVERLAP] if len(sequence) in (20, 35) else [])


@pytest.mark.parametrize("index", range(9))
def test_joined_fragments_are_mutargets(index):
    case = golden_cases()[index]
    lengths = torch.tensor([len(fragment) for fragment in case["frags"]])
    starts = torch.arange(len(lengths)) * (SIZE - OVERLAP)
    protein = torch.zeros_like(lengths)
    pooled = pool_mean(join_fragments(case["emb"], lengths, starts, protein))
    torch.testing.assert_close(pooled, case["pooled"], rtol=1e-6, atol=1e-12)
    highest = pool_max(join_fragments(case["logits"].transpose(1, 2), lengths, starts, protein))
    torch.testing.assert_close(highest, case["max"], rtol=1e-6, atol=1e-12)


def test_a_sequence_of_exactly_one_fragment_has_no_second():
    assert fragment_starts(20, 20, 5) == [0]
    assert fragment_starts(21, 20, 5) == [0, 15]
    assert fragment_starts(35, 20, 5) == [0, 15]


@given(residues=st.integers(1, 200), size=st.integers(1, 40), overlap=st.integers(0, 39))
def test_every_fragment_adds_residues_and_none_is_left_out(residues, size, overlap):
    overlap = min(overlap, size - 1)
    seen = set()
    for index, start in enumerate(fragment_starts(residues, size, overlap)):
        fragment = set(range(start, min(start + size, residues)))
        assert fragment - seen
        assert index == 0 or len(fragment & seen) == overlap
        seen |= fragment
    assert seen == set(range(residues))


def cut(values, size, overlap):
    """Fragments of several proteins' (R, D) values in a random order, padded with nan."""
    rows = []
    for protein, rest in enumerate(values):
        for start in fragment_starts(len(rest), size, overlap):
            piece = rest[start : start + size]
            padding = torch.full((size - len(piece), rest.shape[1]), torch.nan)
            rows.append((torch.cat([piece, padding]), len(piece), start, protein))
    rows = [rows[index] for index in torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]
    fragments, *numbers = zip(*rows, strict=True)
    return torch.stack(fragments), *(torch.tensor(part) for part in numbers)


@pytest.mark.parametrize(("size", "overlap"), [(7, 0), (7, 2), (7, 5), (50, 3)])
def test_several_proteins_are_put_together_again(size, overlap):
    """Overlaps of more than half a fragment, too, where a residue is in three fragments or more."""
    values = [torch.randn(residues, 3) for residues in (9, 1, 30, 7)]
    joined = join_fragments(*cut(values, size, overlap))
    torch.testing.assert_close(joined.values, torch.cat(values))
    assert joined.protein.tolist() == [p for p, rest in enumerate(values) for _ in rest]
    torch.testing.assert_close(pool_mean(joined), torch.stack([rest.mean(0) for rest in values]))
    torch.testing.assert_close(pool_max(joined), torch.stack([rest.amax(0) for rest in values]))


def test_missing_fragments_leave_no_nan():
    """A training batch holds some fragments of a protein, not all."""
    values, lengths, starts = torch.ones(2, 4, 1), torch.tensor([4, 4]), torch.tensor([8, 16])
    joined = join_fragments(values.requires_grad_(), lengths, starts, torch.tensor([0, 0]))
    assert joined.values.ravel().tolist() == [1] * 8 and pool_mean(joined).tolist() == [[1]]
    pool_mean(joined).sum().backward()
    assert values.grad.isfinite().all()


def test_overlaps_are_averaged():
    values = torch.tensor([[[0.0], [1.0]], [[3.0], [5.0]]])
    joined = join_fragments(values, torch.tensor([2, 2]), torch.tensor([0, 1]), torch.tensor([0, 0]))
    assert joined.values.ravel().tolist() == [0, 2, 5]


def test_whole_fragments_are_pooled_in_any_order():
    rows = Joined(torch.tensor([[1.0], [5.0], [3.0]]), torch.tensor([1, 0, 1]))
    assert pool_mean(rows).tolist() == [[5], [2]] and pool_max(rows).tolist() == [[5], [3]]


def test_gradients_reach_every_residue():
    values = torch.randn(3, 4, 2, dtype=torch.float64, requires_grad=True)
    where = torch.tensor([4, 3, 4]), torch.tensor([0, 2, 0]), torch.tensor([0, 0, 1])
    assert torch.autograd.gradcheck(lambda v: pool_mean(join_fragments(v, *where)), values)
    assert torch.autograd.gradcheck(lambda v: pool_max(join_fragments(v, *where)), values)
