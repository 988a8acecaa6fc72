"""What every encoder keeps.

Shapes: B samples, C channels, H x W pixels, L tokens.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from runner import named
from runner.contract.surroundings import no_global_draws, resolve, undisturbed
from runner.schema import Options

SIZES = ((16, 16), (13, 13), (24, 40))
LENGTHS = (24, 1, 17, 9, 30, 5)


def check_encoder(config: Mapping[str, Any], inputs: int = 3) -> None:
    """(B, width) features at every size of image or length of text, that depend on each sample alone in evaluation.

    Every parameter that is trained gets a gradient; the seed decides the weights, and a state dict restores them.
    `inputs` is the number of channels, or of token ids where the encoder takes records.
    """
    name, options = resolve("encoders", config)
    with undisturbed():
        samples = _images(inputs) if named.kind_of("encoders", name) == "images" else _tokens(inputs)
        encoder = _build(name, options, inputs)
        width = getattr(encoder, "width", None)
        assert isinstance(width, int), f"{name}: has no `width`, the number of its features, but {width!r}"
        _check_shapes(name, encoder, width, samples)
        _check_gradients(name, encoder, samples[0])
        _check_evaluation(name, encoder.eval(), samples[0])
        _check_seed(name, options, inputs, samples[0])


def _build(name: str, options: Options, inputs: int, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    with no_global_draws(name):
        encoder: nn.Module = named.load("encoders", name).build(options, inputs)
    return encoder


def _images(channels: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(6, channels, *size, generator=generator) for size in SIZES]


def _tokens(vocabulary: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    tokens_BL = torch.randint(1, vocabulary, (len(LENGTHS), max(LENGTHS)), generator=generator)
    tokens_BL *= torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    return [tokens_BL, torch.cat([tokens_BL, torch.zeros_like(tokens_BL)], 1)]


def _check_shapes(name: str, encoder: nn.Module, width: int, samples: list[Tensor]) -> None:
    for training in (True, False):
        encoder.train(training)
        for sample in samples:
            with torch.no_grad(), no_global_draws(name):
                features = encoder(sample)
            wanted = (len(sample), width)
            assert features.shape == wanted, f"{name}: {tuple(features.shape)} features, should be {wanted}"
            assert features.dtype == torch.float32, f"{name}: features are {features.dtype}, should be float32"
            assert features.isfinite().all(), f"{name}: features are not all finite"
        modes = {part.training for part in encoder.modules()}
        assert training in modes and (training or modes == {False}), f"{name}: forward changes the mode"


def _check_gradients(name: str, encoder: nn.Module, sample: Tensor) -> None:
    encoder.train()
    torch.manual_seed(0)
    features = encoder(sample)
    (features * torch.randn_like(features)).sum().backward()
    trained = {key: parameter for key, parameter in encoder.named_parameters() if parameter.requires_grad}
    without = [key for key, parameter in trained.items() if parameter.grad is None]
    assert trained, f"{name}: has no parameter to train"
    assert not without, f"{name}: no gradient reaches {', '.join(without)}; several ranks would stop at that"
    wrong = [key for key, p in trained.items() if p.grad is not None and not p.grad.isfinite().all()]
    assert not wrong, f"{name}: the gradient of {', '.join(wrong)} is not finite"
    encoder.zero_grad()


def _check_evaluation(name: str, encoder: nn.Module, sample: Tensor) -> None:
    before = copy.deepcopy(encoder.state_dict())
    with torch.no_grad():
        together, again = encoder(sample), encoder(sample)
        alone = torch.cat([encoder(row[None]) for row in sample])
    assert torch.equal(together, again), f"{name}: in evaluation mode a second look gives other features"
    close = torch.allclose(alone, together, rtol=1e-4, atol=1e-5)
    assert close, f"{name}: in evaluation mode the features of a sample depend on the others of its batch"
    kept = all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())
    assert kept, f"{name}: looking at samples in evaluation mode changes its state"


def _check_seed(name: str, options: Options, inputs: int, sample: Tensor) -> None:
    first, same, other = (_build(name, options, inputs, seed).eval() for seed in (0, 0, 1))
    with torch.no_grad():
        assert torch.equal(first(sample), same(sample)), f"{name}: one seed, two networks"
        other.load_state_dict(first.state_dict())
        assert torch.equal(first(sample), other(sample)), f"{name}: a state dict does not restore it"
