"""Encoders of proteins keep the contract of sequence encoders: tokens in, 0 is padding, a width out."""

import importlib

import pytest
import torch
from pydantic import ValidationError

from runner.encoders import kmer, sequence_cnn
from runner.encoders.sequence_cnn import take_last
from runner.errors import ConfigError
from runner.proteins.alphabet import VOCABULARY, tokenise
from runner.proteins.kmers import kmer_features

TINY = {
    "kmer": {"hidden": 8, "width": 6},
    "sequence_cnn": {"embedding": 4, "channels": 5, "kernel": 3, "first": 20, "last": 8},
    "esm2": {"random": True, "layers": 2, "width": 16, "heads": 2, "mode": "full"},
    "esm2-lora": {"random": True, "layers": 2, "width": 16, "heads": 2, "mode": "lora", "lora_rank": 2},
}
RESIDUES = [name for name in TINY if name != "kmer"]


def build(name, seed=0, alphabet="extended", **options):
    module = importlib.import_module(f"runner.encoders.{name.split('-')[0]}")
    config = module.Config(**{**TINY[name], **options})
    torch.manual_seed(seed)
    return module.build(module.Config.model_validate_json(config.model_dump_json()), VOCABULARY[alphabet])


def random_tokens(lengths, vocabulary=26, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, vocabulary, (len(lengths), max(lengths)), generator=generator, dtype=torch.uint8)
    return tokens * (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None])


@pytest.fixture(params=TINY)
def encoder(request):
    return build(request.param)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_features_have_the_width(encoder, dtype):
    features = encoder(random_tokens([1, 5, 50, 400]).to(dtype))
    assert features.shape == (4, encoder.width) and features.dtype == torch.float32
    assert features.isfinite().all()


def test_features_under_autocast_are_about_the_same(encoder):
    encoder.eval()
    tokens = random_tokens([7, 60])
    with torch.no_grad():
        expected = encoder(tokens)
        with torch.autocast("cpu", torch.bfloat16):
            found = encoder(tokens)
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.1)


def test_features_depend_on_the_sequence_alone(encoder):
    """Neither on padding nor on the other sequences of the batch."""
    encoder.eval()
    lengths = [1, 7, 8, 9, 25, 60]
    tokens = random_tokens(lengths)
    with torch.no_grad():
        together = encoder(tokens)
        alone = torch.cat([encoder(row[None, :length]) for row, length in zip(tokens, lengths, strict=True)])
        padded = encoder(torch.cat([tokens, torch.zeros_like(tokens)], 1))
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together, padded, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(together[4], together[5])


def test_gradients_reach_every_trainable_parameter(encoder):
    """A parameter without one stops distributed training."""
    features = encoder(random_tokens([30, 50, 40, 9]))
    (features * torch.randn_like(features)).sum().backward()
    trainable = [(name, p) for name, p in encoder.named_parameters() if p.requires_grad]
    assert trainable
    assert [name for name, p in trainable if p.grad is None] == []


def test_the_seed_decides_and_a_state_dict_restores(encoder, request):
    name = request.node.callspec.params["encoder"]
    first, same, other = (build(name, seed=seed).eval() for seed in (0, 0, 1))
    tokens = random_tokens([40, 50])
    with torch.no_grad():
        assert torch.equal(first(tokens), same(tokens)) and not torch.equal(first(tokens), other(tokens))
        other.load_state_dict(first.state_dict())
        assert torch.equal(first(tokens), other(tokens))


@pytest.mark.parametrize("name", RESIDUES)
def test_residues_have_the_width_and_padding_has_none(name):
    encoder, tokens = build(name).eval(), random_tokens([3, 45])
    with torch.no_grad():
        residues = encoder.residues(tokens)
        longer = encoder.residues(torch.cat([tokens, torch.zeros_like(tokens)], 1))
    assert residues.shape == (2, 45, encoder.width)
    assert (residues[0, 3:] == 0).all() and (residues[tokens > 0] != 0).any(1).all()
    assert longer.shape == (2, 90, encoder.width)
    torch.testing.assert_close(longer[:, :45], residues, rtol=1e-4, atol=1e-5)


def test_the_cnn_pools_its_residues_over_the_two_ends():
    encoder, tokens = build("sequence_cnn").eval(), random_tokens([70, 21, 3])
    with torch.no_grad():
        residues, features = encoder.residues(tokens), encoder(tokens)
    for row, length in enumerate([70, 21, 3]):
        head = residues[row, :20, :5].amax(0)
        tail = residues[row, max(length - 8, 0) : length, 5:].amax(0)
        torch.testing.assert_close(features[row], torch.cat([head, tail]), rtol=1e-5, atol=1e-6)


def test_the_last_tokens_of_each_sequence():
    tokens = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 0, 0, 0], [8, 9, 10, 0, 0]])
    assert take_last(tokens, 3).tolist() == [[3, 4, 5], [0, 6, 7], [8, 9, 10]]
    assert take_last(tokens, 6).tolist() == [[0, 1, 2, 3, 4, 5], [0, 0, 0, 0, 6, 7], [0, 0, 0, 8, 9, 10]]


@pytest.mark.parametrize("name", ["kmer", "sequence_cnn", "esm2"])
def test_data_without_the_tokens_it_reads_are_refused(name):
    module = importlib.import_module(f"runner.encoders.{name}")
    with pytest.raises(ConfigError, match=rf"encoder\.name: {name} reads sequences of tokens, and the data hold none"):
        module.build(module.Config(**TINY[name]), 0)
    if name != "sequence_cnn":
        with pytest.raises(ConfigError, match=rf"{name} reads the 22 or 26 tokens of proteins, and the data have 999"):
            module.build(module.Config(**TINY[name]), 999)


def test_an_even_kernel_is_refused():
    with pytest.raises(ValidationError, match="8 is even"):
        sequence_cnn.Config(kernel=8)


def test_dropout_makes_another_view_of_the_same_sequence():
    """What an anchor without positives needs."""
    for name in ("kmer", "sequence_cnn"):
        encoder, tokens = build(name, dropout=0.3), random_tokens([40, 50])
        assert not torch.equal(encoder(tokens), encoder(tokens))


def test_kmer_features_are_standardised_by_what_they_were_fitted_to():
    encoder = kmer.build(kmer.Config(hidden=None), VOCABULARY["standard"])
    tokens = random_tokens([200] * 50)
    raw = encoder(tokens)
    assert encoder.width == 881 and not list(encoder.parameters())
    encoder.fit(tokens)
    features = kmer_features(tokens)
    spread = features.std(0, correction=0) > 1e-8
    assert 0 < spread.sum() < 881
    torch.testing.assert_close(encoder(tokens).mean(0), torch.zeros(881), rtol=0, atol=1e-4)
    torch.testing.assert_close(encoder(tokens)[:, spread].std(0, correction=0), torch.ones(int(spread.sum())))
    assert not torch.equal(raw, encoder(tokens))
    again = kmer.build(kmer.Config(hidden=None), VOCABULARY["standard"])
    again.load_state_dict(encoder.state_dict())
    assert torch.equal(again(tokens), encoder(tokens))


def test_kmer_does_not_see_the_alphabet():
    sequences = ["MKUVLZX", "ACDE"]
    first, second = (
        build("kmer", alphabet=alphabet).eval()(tokenise(sequences, alphabet)) for alphabet in ("standard", "extended")
    )
    assert torch.equal(first, second)
