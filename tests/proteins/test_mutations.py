"""Masked and exchanged residues: how many, which, and what they depend on."""

import pytest
import torch

from runner.proteins.alphabet import TWENTY, UNKNOWN
from runner.proteins.mutations import mutate


def make_tokens(samples=50, residues=400, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, 21, (samples, residues), generator=generator, dtype=torch.uint8)


def run(tokens, ids=None, seed=0, epoch=0, view=0, **options):
    return mutate(tokens, range(len(tokens)) if ids is None else ids, seed=seed, epoch=epoch, view=view, **options)


def test_a_tenth_is_masked():
    tokens = make_tokens()
    masked = run(tokens)
    changed = masked != tokens
    assert (masked[changed] == UNKNOWN).all() and masked.dtype == torch.uint8
    assert changed.float().mean().item() == pytest.approx(0.1, abs=0.01)
    # Binomial about a share that itself varies by 0.02.
    assert changed.float().mean(1).std().item() == pytest.approx((0.1 * 0.9 / 400 + 0.02**2) ** 0.5, rel=0.35)


def test_substitutes_are_any_of_the_twenty():
    tokens = torch.full((40, 500), UNKNOWN)
    found = run(tokens, rate=0.5, spread=0.0, kind="substitute")
    counts = torch.bincount(found[found != UNKNOWN], minlength=21)[1:]
    assert len(counts) == len(TWENTY)
    torch.testing.assert_close(counts / counts.sum(), torch.full((20,), 0.05), rtol=0, atol=0.008)


@pytest.mark.parametrize("kind", ["mask", "substitute"])
@pytest.mark.parametrize(("rate", "share"), [(0.0, 0.0), (-1.0, 0.0), (1.0, 1.0), (2.0, 1.0)])
def test_shares_stay_within_none_and_all(kind, rate, share):
    tokens = torch.full((5, 40), UNKNOWN + 1)
    assert (run(tokens, rate=rate, spread=0.0, kind=kind) != tokens).float().mean() == share


def test_changes_are_a_function_of_seed_epoch_sample_and_view():
    tokens = make_tokens(6)
    found = run(tokens)
    assert torch.equal(run(tokens[[4, 1]], ids=[4, 1]), found[[4, 1]])
    others = [run(tokens, seed=1), run(tokens, epoch=1), run(tokens, view=1), run(tokens, ids=range(1, 7))]
    assert all(not torch.equal(other, found) for other in others)


def test_padding_stays_and_changes_nothing():
    tokens = make_tokens(6)
    padded = torch.cat([tokens, torch.zeros_like(tokens)], 1)
    found = run(padded, rate=0.5)
    assert (found[:, 400:] == 0).all() and torch.equal(found[:, :400], run(tokens, rate=0.5))
