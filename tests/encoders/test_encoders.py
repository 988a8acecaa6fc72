"""Every encoder keeps the contract of its family, and is the network its name says."""

import importlib
import math

import pytest
import torch
from torch import nn

from runner.contract import check_encoder
from runner.encoders import efficientnet_b0, resnet18, small_convnet
from runner.encoders._init import initialise

# Parameters at 3 channels without a classifier: the published counts less the fully connected layer.
# The small stem has 64 * 3 * (49 - 9) weights fewer.
KNOWN = {
    "small_convnet": ({}, 97_680, 128),
    "resnet9": ({}, 6_568_000, 512),
    "resnet18": ({}, 11_689_512 - 513_000, 512),
    "resnet18-small": ({"stem": "small"}, 11_176_512 - 7_680, 512),
    "resnet34": ({}, 21_797_672 - 513_000, 512),
    "resnet34-small": ({"stem": "small"}, 21_284_672 - 7_680, 512),
    "resnet50": ({}, 25_557_032 - 2_049_000, 2048),
    "resnet50-small": ({"stem": "small"}, 23_508_032 - 7_680, 2048),
    "efficientnet_b0": ({}, 5_288_548 - 1_281_000, 1280),
}

# Small members of each kind of network, for what does not depend on the size.
SMALL = {
    "small_convnet": {"widths": [4, 8]},
    "small_convnet-group": {"widths": [4, 8], "norm": "group"},
    "resnet9": {"base_width": 4},
    "resnet18": {},
    "resnet18-small": {"stem": "small"},
    "efficientnet_b0": {},
}


def build(name, options, channels=3, seed=0):
    module = importlib.import_module(f"runner.encoders.{name.split('-')[0]}")
    torch.manual_seed(seed)
    return module.build(module.Config.model_validate_json(module.Config(**options).model_dump_json()), channels)


@pytest.mark.parametrize("name", KNOWN)
def test_parameter_count_and_width(name):
    options, parameters, width = KNOWN[name]
    encoder = build(name, options)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == parameters
    assert encoder.width == width
    assert all(parameter.requires_grad for parameter in encoder.parameters())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", SMALL)
def test_it_keeps_the_contract(name, channels):
    check_encoder({"name": name.split("-")[0], **SMALL[name]}, channels)


@pytest.mark.parametrize("name", ["resnet18", "resnet9", "efficientnet_b0", "small_convnet"])
def test_batch_norm_starts_as_the_identity_and_keeps_statistics_slowly(name):
    """transformers' EfficientNet starts with random scales around 0 and forgets all but the last batch."""
    norms = [part for part in build(name, {}).modules() if isinstance(part, nn.BatchNorm2d)]
    assert norms
    for norm in norms:
        assert (norm.weight == 1).all() and (norm.bias == 0).all()
        assert norm.momentum == 0.1


def test_the_start_is_kaiming_normal_also_for_depthwise_convolutions():
    torch.manual_seed(0)
    plain, depthwise = nn.Conv2d(64, 128, 3), nn.Conv2d(512, 512, 3, groups=512)
    initialise(nn.ModuleList([plain, depthwise]))
    assert plain.weight.std().item() == pytest.approx(math.sqrt(2 / (128 * 9)), rel=0.02)
    assert depthwise.weight.std().item() == pytest.approx(math.sqrt(2 / 9), rel=0.02)
    assert (plain.bias == 0).all()
    stem = next(build("resnet18", {"stem": "small"}).body.embedder.parameters())
    assert stem.std().item() == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.1)


def test_the_small_stem_keeps_the_resolution():
    images = torch.randn(2, 3, 32, 32)
    sizes = {}
    for stem in ("imagenet", "small"):
        encoder = build("resnet18", {"stem": stem})
        with torch.no_grad():
            sizes[stem] = encoder.body(images).last_hidden_state.shape[2:]
    assert sizes == {"imagenet": (1, 1), "small": (4, 4)}


def test_drop_connect_acts_in_training_only():
    images = torch.randn(4, 3, 32, 32)
    encoder = efficientnet_b0.build(efficientnet_b0.Config(drop_connect=0.5), 3)
    with torch.no_grad():
        assert not torch.equal(encoder.train()(images), encoder(images))
        assert torch.equal(encoder.eval()(images), encoder(images))
        encoder = efficientnet_b0.build(efficientnet_b0.Config(drop_connect=0.0), 3)
        assert torch.equal(encoder.train()(images), encoder(images))


def test_group_norm_makes_training_independent_of_the_batch():
    encoder = small_convnet.build(small_convnet.Config(norm="group"), 3).train()
    images = torch.randn(6, 3, 28, 28)
    with torch.no_grad():
        torch.testing.assert_close(encoder(images)[:2], encoder(images[:2]), rtol=1e-5, atol=1e-6)


def test_options_are_checked():
    with pytest.raises(ValueError, match="stem"):
        resnet18.Config(stem="tiny")
    with pytest.raises(ValueError, match="widths"):
        small_convnet.Config(widths=())
