"""ESM-2 is transformers' model, fed as its tokenizer would, and each mode trains what it says."""

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from transformers import EsmModel
from transformers.models.esm.configuration_esm import get_default_vocab_list

from runner.encoders import esm2
from runner.errors import ConfigError, DataError
from runner.proteins.alphabet import VOCABULARY, tokenise

SIZE = {"random": True, "layers": 3, "width": 16, "heads": 2}


def build(**options):
    torch.manual_seed(0)
    return esm2.build(esm2.Config(**{**SIZE, **options}), VOCABULARY["extended"])


def test_tokens_are_esms():
    assert get_default_vocab_list() == esm2.ESM_TOKENS
    ids = build().to_esm(tokenise(["MKX", "ACDEU"], "extended"))
    names = [[esm2.ESM_TOKENS[i] for i in row] for row in ids.tolist()]
    assert names == [["<cls>", *"MKX", "<eos>", "<pad>", "<pad>"], ["<cls>", *"ACDEU", "<eos>"]]


def test_weights_are_read_from_a_folder(tmp_path):
    source = build(mode="full")
    body = EsmModel(source.body.config, add_pooling_layer=False)
    body.save_pretrained(tmp_path)
    encoder = esm2.build(esm2.Config(model=str(tmp_path), mode="freeze"), VOCABULARY["extended"]).eval()
    tokens = tokenise(["MKXLLV", "ACDEU"], "extended")
    with torch.no_grad():
        ids = encoder.to_esm(tokens)
        hidden = body.eval()(ids, attention_mask=(ids != 1).long()).last_hidden_state
        expected = torch.stack([hidden[0, 1:7].mean(0), hidden[1, 1:6].mean(0)])
        torch.testing.assert_close(encoder(tokens), expected, rtol=1e-5, atol=1e-6)
    assert encoder.width == 16


@pytest.mark.parametrize("model", ["esm2_t0_none", "nobody/nothing", "EMPTY"])
def test_missing_weights_are_named_in_one_line(tmp_path, model):
    model = str(tmp_path) if model == "EMPTY" else model
    with pytest.raises(DataError, match=r"encoder\.model: no weights of .*encoder\.download=true") as caught:
        esm2.build(esm2.Config(model=model), 22)
    assert "\n" not in str(caught.value) and model in str(caught.value)


def trained(encoder):
    return {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}


def test_each_mode_trains_what_it_says():
    everything = {name for name, _ in build(mode="full").named_parameters()}
    assert trained(build(mode="full")) == everything
    assert trained(build(mode="freeze")) == set()
    last = trained(build(mode="last_layers", last_layers=1))
    assert last == {name for name in everything if ".layer.2." in name or "emb_layer_norm_after" in name}
    adapters = trained(build(mode="lora"))
    assert adapters == {
        f"body.encoder.layer.{layer}.attention.self.{part}.{matrix}"
        for layer in range(3)
        for part in ("query", "key")
        for matrix in ("down", "up")
    }


@pytest.mark.parametrize("mode", ["freeze", "last_layers", "lora", "full"])
def test_every_mode_starts_as_the_same_function(mode):
    tokens = tokenise(["MKXLLV", "ACDEU"], "extended")
    with torch.no_grad():
        torch.testing.assert_close(build(mode=mode)(tokens), build(mode="full")(tokens), rtol=0, atol=0)


def test_an_adapter_is_a_change_of_the_weight():
    base = nn.Linear(5, 4)
    adapter = esm2.LowRank(base, rank=2, alpha=6.0)
    nn.init.normal_(adapter.up)
    x = torch.randn(3, 5)
    weight = base.weight + 3.0 * adapter.up @ adapter.down
    torch.testing.assert_close(adapter(x), nn.functional.linear(x, weight, base.bias))


def test_adapters_move_the_features_and_leave_the_weights_alone():
    encoder, tokens = build(mode="lora"), tokenise(["MKXLLV", "ACDEU"], "extended")
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    first = encoder(tokens)
    optimizer = torch.optim.SGD([p for p in encoder.parameters() if p.requires_grad], lr=10.0)
    first.square().mean().backward()
    optimizer.step()
    assert not torch.equal(encoder(tokens), first)
    changed = {name for name, value in encoder.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all(name.endswith(".up") for name in changed)


def test_options_are_checked():
    with pytest.raises(ValidationError, match="layers: needs random: true"):
        esm2.Config(layers=2)
    with pytest.raises(ValidationError, match="width: needs random: true, which needs layers, width and heads"):
        esm2.Config(random=True, layers=2)
    with pytest.raises(ValidationError, match="width: 6 is not a multiple of twice the 2 heads"):
        esm2.Config(random=True, layers=2, width=6, heads=2)
    with pytest.raises(ConfigError, match=r"encoder\.last_layers: 4 is more than the 3 of the model"):
        build(last_layers=4)
