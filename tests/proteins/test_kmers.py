"""Counts of amino acids and pairs against a naive count, and what random sequences have of them."""

import math

import pytest
import torch

from runner.data.protein_localisation import Config, build
from runner.proteins.alphabet import TWENTY, tokenise
from runner.proteins.kmers import FREQUENCIES, TYPICAL_LENGTH, WIDTH, expected_statistics, kmer_features


def count_naively(sequence):
    found = []
    for part in (sequence[:20], sequence[:60], sequence[-20:], sequence):
        found += [part.count(letter) / len(part) for letter in TWENTY]
    for part in (sequence[:80], sequence):
        pairs = [part[i : i + 2] for i in range(len(part) - 1)]
        found += [pairs.count(a + b) / max(len(pairs), 1) for a in TWENTY for b in TWENTY]
    return [*found, math.log(len(sequence))]


def random_sequences(lengths, letters=TWENTY):
    torch.manual_seed(0)
    return ["".join(letters[i] for i in torch.randint(len(letters), (length,))) for length in lengths]


@pytest.mark.parametrize("alphabet", ["standard", "extended"])
def test_features_are_counts(alphabet):
    sequences = random_sequences([1, 2, 19, 20, 21, 60, 79, 80, 81, 200], TWENTY + "XBUZ")
    features = kmer_features(tokenise(sequences, alphabet))
    assert features.shape == (10, WIDTH) == (10, 881)
    torch.testing.assert_close(features, torch.tensor([count_naively(s) for s in sequences]), rtol=1e-5, atol=1e-7)


def test_padding_and_the_rest_of_the_batch_change_nothing():
    sequences = random_sequences([30, 300])
    tokens = tokenise(sequences)
    torch.testing.assert_close(kmer_features(tokens)[:1], kmer_features(tokenise(sequences[:1])), rtol=0, atol=0)


def test_expected_statistics_are_those_of_random_sequences():
    generator = torch.Generator().manual_seed(0)
    shares = torch.tensor(FREQUENCIES)
    tokens = 1 + torch.multinomial(shares, 4000 * TYPICAL_LENGTH, True, generator=generator).view(4000, -1)
    mean, std = expected_statistics()
    standard = (kmer_features(tokens) - mean) / std
    torch.testing.assert_close(standard.mean(0), torch.zeros(WIDTH), rtol=0, atol=0.1)
    # A pair of twice the same letter overlaps itself, so it spreads a little more.
    torch.testing.assert_close(standard[:, :-1].std(0), torch.ones(WIDTH - 1), rtol=0, atol=0.25)


def test_frequencies_are_those_of_the_shipped_proteins():
    splits = [build(Config(max_length=10_000), split).columns["sequence"].int() for split in ("train", "test")]
    counts = sum(torch.bincount(tokens.flatten(), minlength=22) for tokens in splits)[1:21]
    torch.testing.assert_close(torch.tensor(FREQUENCIES), counts / counts.sum(), rtol=0, atol=6e-5)
    lengths = torch.cat([(tokens > 0).sum(1) for tokens in splits])
    assert lengths.log().mean().exp().item() == pytest.approx(TYPICAL_LENGTH, abs=0.5)
