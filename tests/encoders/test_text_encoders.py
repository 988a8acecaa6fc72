"""Every text encoder keeps the contract of its family: (B, L) token ids to (B, width), padding does not count."""

import copy
import math

import pytest
import torch
from torch import nn

from runner.encoders import bag_of_tokens, huggingface, lsa, small_transformer
from runner.encoders.bag_of_tokens import weigh_sublinearly
from runner.encoders.small_transformer import drop_empty_columns
from runner.errors import ConfigError
from runner.schema import build as build_config

VOCABULARY = 50
SMALL = {
    "bag": (bag_of_tokens, {"embedding_width": 8, "hidden_width": 12, "width": 6}),
    "bag-linear": (bag_of_tokens, {"embedding_width": 8, "layers": 0, "width": 6, "token_dropout": 0.0}),
    "lsa": (lsa, {"width": 6, "token_dropout": 0.0}),
    "transformer": (small_transformer, {"width": 12, "layers": 2, "heads": 3, "feed_forward": 16, "max_length": 9}),
    "transformer-cls": (small_transformer, {"width": 12, "layers": 2, "max_length": 9, "pooling": "cls"}),
    "bert": (huggingface, {"weights": "random"}),
    "roberta-mean": (huggingface, {"pooling": "mean", "freeze": True}),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A tiny BERT and a tiny RoBERTa, as a pretrained model is on disk."""
    from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel

    folder = tmp_path_factory.mktemp("models")
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    sizes |= {"vocab_size": VOCABULARY - 1, "max_position_embeddings": 20}
    torch.manual_seed(0)
    BertModel(BertConfig(**sizes)).save_pretrained(folder / "bert")
    RobertaModel(RobertaConfig(pad_token_id=1, **sizes)).save_pretrained(folder / "roberta")
    return folder


def make(name, models, seed=0):
    module, options = SMALL[name]
    if module is huggingface:
        options = {"source": str(models / name.split("-")[0]), **options}
    torch.manual_seed(seed)
    return module.build(build_config(module.Config, options), VOCABULARY)


@pytest.fixture(params=SMALL)
def encoder(request, models):
    return make(request.param, models)


def make_tokens(lengths=(7, 3, 1, 5), places=9):
    tokens = torch.randint(1, VOCABULARY, (len(lengths), places), generator=torch.Generator().manual_seed(1))
    for row, length in zip(tokens, lengths, strict=True):
        row[length:] = 0
    return tokens


def test_features_have_the_width(encoder):
    features = encoder(make_tokens())
    assert features.shape == (4, encoder.width) and features.dtype == torch.float32
    assert features.isfinite().all()


def test_a_text_of_padding_only_has_features(encoder):
    features = encoder(torch.zeros(2, 4, dtype=torch.int64))
    assert features.shape == (2, encoder.width) and features.isfinite().all()


def test_features_are_a_function_of_the_text_alone(encoder):
    """Whatever else is in the batch, and however much padding follows."""
    encoder.eval()
    tokens = make_tokens()
    with torch.no_grad():
        together = encoder(tokens)
        alone = torch.cat([encoder(row[row > 0][None]) for row in tokens])
        padded = encoder(torch.nn.functional.pad(tokens, (0, 6)))
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(padded, together, rtol=1e-4, atol=1e-5)


def test_different_texts_have_different_features(encoder):
    encoder.eval()
    with torch.no_grad():
        features = encoder(make_tokens())
    assert torch.pdist(features).min() > 1e-3


@pytest.mark.parametrize("name", [name for name in SMALL if "mean" not in name])
def test_gradients_reach_every_parameter(name, models):
    encoder = make(name, models)
    (encoder(make_tokens((9, 9, 9, 9))) * torch.randn(4, encoder.width)).sum().backward()
    for key, parameter in encoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, key


@pytest.mark.parametrize("name", ["transformer", "transformer-cls", "bag", "bag-linear", "lsa"])
def test_the_embedding_of_padding_is_0_and_not_trained(name, models):
    encoder = make(name, models)
    table = encoder.tokens if name.startswith("transformer") else encoder.embedding
    assert (table.weight[0] == 0).all()
    encoder(make_tokens()).square().sum().backward()
    assert (table.weight.grad[0] == 0).all()


@pytest.mark.parametrize("name", ["transformer", "transformer-cls", "bag", "lsa"])
def test_the_seed_decides_and_a_state_dict_restores(name, models):
    first, same, other = (make(name, models, seed).eval() for seed in (0, 0, 1))
    tokens = make_tokens()
    with torch.no_grad():
        assert torch.equal(first(tokens), same(tokens))
        assert not torch.equal(first(tokens), other(tokens))
        other.load_state_dict(first.state_dict())
        assert torch.equal(first(tokens), other(tokens))


def test_order_counts_for_a_transformer_and_not_for_a_bag(models):
    tokens = make_tokens((6,), 6)
    for name, counts in (("transformer", True), ("transformer-cls", True), ("bag", False), ("lsa", False)):
        encoder = make(name, models).eval()
        same = torch.allclose(encoder(tokens), encoder(tokens.flip(1)), atol=1e-5)
        assert same != counts, name


def test_a_token_found_n_times_weighs_1_plus_log_n():
    tokens, weights = weigh_sublinearly(make_tokens((9, 4, 0)) % 4, torch.float64)
    for row, weight, text in zip(tokens, weights, make_tokens((9, 4, 0)) % 4, strict=True):
        for token in (1, 2, 3):
            count = int((text == token).sum())
            expected = 1 + math.log(count) if count else 0
            assert weight[row == token].sum().item() == pytest.approx(expected)


def test_token_dropout_acts_in_training_only():
    encoder = bag_of_tokens.build(bag_of_tokens.Config(token_dropout=0.5, dropout=0.0), VOCABULARY)
    tokens = make_tokens()
    assert not torch.equal(encoder(tokens), encoder(tokens))
    encoder.eval()
    assert torch.equal(encoder(tokens), encoder(tokens))


def test_lsa_is_scikit_learns():
    """All dimensions of tf-idf, of the texts of both columns and of texts that were not among them."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    torch.manual_seed(0)
    columns = torch.randint(1, 30, (25, 12)), torch.randint(1, 45, (15, 7))
    columns[1][:, 5:] = 0
    tokens = [*columns, torch.randint(0, VOCABULARY, (8, 20))]
    texts = [[[str(token) for token in row.tolist() if token] for row in rows] for rows in tokens]
    vectorizer = TfidfVectorizer(analyzer=lambda words: words, min_df=2, sublinear_tf=True)
    weights = vectorizer.fit_transform([*texts[0], *texts[1]])
    svd = TruncatedSVD(weights.shape[1], algorithm="randomized", random_state=0).fit(weights)
    encoder = lsa.build(lsa.Config(width=VOCABULARY), VOCABULARY).eval()
    encoder.fit(*columns)
    ours = torch.cat([encoder(rows) for rows in tokens]) / VOCABULARY**0.5
    theirs = torch.from_numpy(svd.transform(vectorizer.transform([text for rows in texts for text in rows]))).float()
    torch.testing.assert_close(ours @ ours.T, theirs @ theirs.T, rtol=1e-4, atol=1e-5)


def test_lsa_of_few_texts_fills_the_width_with_0():
    encoder = lsa.build(lsa.Config(width=9), VOCABULARY).eval()
    encoder.fit(torch.tensor([[1, 2, 3], [2, 3, 4], [1, 1, 4]]))
    features = encoder(torch.tensor([[1, 2, 2], [7, 8, 9]]))
    assert (features[0, :3].abs() > 1e-6).all() and (features[:, 3:].abs() < 1e-6).all()
    assert (features[1] == 0).all(), "no training text has these tokens"


def test_a_block_is_torchs_own_encoder_layer(models):
    block = make("transformer", models).eval().blocks[0]
    theirs = nn.TransformerEncoderLayer(
        12, 3, 16, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    ).eval()
    theirs.load_state_dict(
        {
            "self_attn.in_proj_weight": block.query_key_value.weight,
            "self_attn.in_proj_bias": block.query_key_value.bias,
            "self_attn.out_proj.weight": block.merge.weight,
            "self_attn.out_proj.bias": block.merge.bias,
            "linear1.weight": block.feed_forward[0].weight,
            "linear1.bias": block.feed_forward[0].bias,
            "linear2.weight": block.feed_forward[2].weight,
            "linear2.bias": block.feed_forward[2].bias,
            "norm1.weight": block.attention_norm.weight,
            "norm1.bias": block.attention_norm.bias,
            "norm2.weight": block.feed_forward_norm.weight,
            "norm2.bias": block.feed_forward_norm.bias,
        }
    )
    x, real = torch.randn(4, 9, 12), make_tokens() != 0
    expected = theirs(x, src_key_padding_mask=~real)
    torch.testing.assert_close(block(x, real)[real], expected[real], rtol=1e-4, atol=1e-5)


def test_what_exceeds_the_positions_is_cut(models):
    encoder = make("transformer", models).eval()
    tokens = make_tokens((14, 14), 14)
    assert torch.equal(encoder(tokens), encoder(tokens[:, :9]))


def test_a_pretrained_model_gets_its_own_ids_and_padding(models):
    from transformers import RobertaModel

    theirs = RobertaModel.from_pretrained(models / "roberta").eval()
    tokens = make_tokens()
    for row, features in zip(tokens, make("roberta-mean", models)(tokens), strict=True):
        ids = row[row > 0][None] - 1
        # The positions of RoBERTa skip its padding id, which these random texts may hold by chance.
        torch.testing.assert_close(features, theirs(ids).last_hidden_state[0].mean(0), rtol=1e-4, atol=1e-5)


def test_a_frozen_model_stays_as_it_is(models):
    encoder = make("roberta-mean", models).train()
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not any(part.training for part in encoder.modules())
    trained = make("bert", models)
    assert all(part.training for part in trained.modules())
    assert all(parameter.requires_grad for parameter in trained.parameters())
    assert copy.deepcopy(encoder).freeze


def test_random_weights_are_not_the_pretrained_ones(models):
    config = {"source": str(models / "bert")}
    pretrained = huggingface.build(huggingface.Config(**config), VOCABULARY)
    again = huggingface.build(huggingface.Config(**config), VOCABULARY)
    drawn = huggingface.build(huggingface.Config(**config, weights="random"), VOCABULARY)
    weights = [next(encoder.parameters()) for encoder in (pretrained, again, drawn)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_a_model_that_is_not_here_or_too_small_is_named_in_one_line(models, tmp_path):
    for source in ("nobody/nothing", str(tmp_path)):
        for weights in ("pretrained", "random"):
            with pytest.raises(ConfigError, match=r"encoder.source: no model .* here; give a folder") as caught:
                huggingface.build(huggingface.Config(source=source, weights=weights), VOCABULARY)
            assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="has 49 token ids, the data have 50"):
        huggingface.build(huggingface.Config(source=str(models / "bert")), VOCABULARY + 1)


def test_empty_columns_at_the_end_are_dropped():
    tokens = torch.tensor([[1, 0, 2, 0, 0], [3, 0, 0, 0, 0]])
    assert drop_empty_columns(tokens).tolist() == [[1, 0, 2], [3, 0, 0]]
    assert drop_empty_columns(torch.zeros(2, 3, dtype=torch.int64)).tolist() == [[0], [0]]


def test_options_are_checked():
    with pytest.raises(ConfigError, match=r"encoder.width: 10 is not allowed; must be a multiple of heads, 3"):
        build_config(small_transformer.Config, {"width": 10, "heads": 3}, "encoder")


def test_sizes_of_the_defaults():
    transformer = small_transformer.build(small_transformer.Config(), 8192)
    assert sum(p.numel() for p in transformer.parameters()) == pytest.approx(3.0e6, rel=0.05)
    bag = bag_of_tokens.build(bag_of_tokens.Config(), 8192)
    assert sum(p.numel() for p in bag.parameters()) == pytest.approx(2.4e6, rel=0.05)
