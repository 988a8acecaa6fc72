"""Interpolation and projection heads against the arrays of the system they replace."""

import pytest
import torch

from runner.interpolation import LinearInterpolation, NonlinearInterpolation, interpolate
from runner.projection import build_head
from tests.golden import load_golden

KINDS = {"linear": LinearInterpolation, "nonlinear": NonlinearInterpolation}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def load(module, golden, prefix):
    state = {key.removeprefix(prefix): value for key, value in golden.items() if key.startswith(prefix)}
    module.double().load_state_dict(state)
    return module.eval()


def make(kind, width=8, dropout=0.1):
    torch.manual_seed(0)
    return KINDS[kind](width, dropout), torch.randn(5, width), torch.randn(5, width)


def test_interpolation_equals_the_golden_values_and_gradients(kind):
    golden = load_golden(f"contrabin_interp_{kind}")
    module = load(KINDS[kind](6), golden, "sd_")
    h1, h2 = golden["h1"].requires_grad_(), golden["h2"].requires_grad_()
    torch.testing.assert_close(module.weigh(h1, h2), golden["lam"], rtol=1e-6, atol=1e-12)
    out = module(h1, h2)
    torch.testing.assert_close(out, golden["out"], rtol=1e-6, atol=1e-12)
    total = (golden["w"] * out).sum()
    torch.testing.assert_close(total, golden["wsum"], rtol=1e-6, atol=1e-12)
    total.backward()
    torch.testing.assert_close(h1.grad, golden["g_h1"], rtol=1e-5, atol=1e-12)
    torch.testing.assert_close(h2.grad, golden["g_h2"], rtol=1e-5, atol=1e-12)


def test_a_head_equals_the_golden_values(kind):
    golden = load_golden(f"contrabin_interp_{kind}")
    head = load(build_head(kind, 9, 6), golden, "hsd_")
    torch.testing.assert_close(head(golden["head_x"]), golden["head_out"], rtol=1e-6, atol=1e-12)


def test_the_weights_of_a_simplex(kind):
    golden = load_golden(f"contrabin_interp_{kind}")
    out = interpolate(golden["h1"], golden["h2"], golden["simplex_lam"])
    torch.testing.assert_close(out, golden["simplex_out"], rtol=1e-12, atol=1e-12)


def test_the_result_lies_between_both(kind):
    module, h1, h2 = make(kind)
    out, weight = module.eval()(h1, h2), module.weigh(h1, h2)
    assert weight.shape == (5, 1 if kind == "linear" else 8)
    assert (weight > 0).all() and (weight < 1).all()
    low, high = torch.minimum(h1, h2), torch.maximum(h1, h2)
    assert (out >= low - 1e-6).all() and (out <= high + 1e-6).all()


def test_between_equal_embeddings_there_is_one_point(kind):
    module, h1, _ = make(kind)
    torch.testing.assert_close(module.eval()(h1, h1), h1)


def test_swapping_embeddings_and_complementing_weights_is_the_same(kind):
    """The sum that the weight is computed from does not know which embedding came first."""
    module, h1, h2 = make(kind)
    module.eval()
    torch.testing.assert_close(module(h1, h2) + module(h2, h1), h1 + h2)


def test_gradients_reach_every_parameter_and_are_right(kind):
    module, h1, h2 = make(kind, width=4, dropout=0.0)
    module.double()
    h1, h2 = h1.double().requires_grad_(), h2.double().requires_grad_()
    assert torch.autograd.gradcheck(module, (h1, h2))
    module(h1, h2).square().sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_dropout_acts_in_training_only(kind):
    module, h1, h2 = make(kind, dropout=0.5)
    assert not torch.equal(module(h1, h2), module(h1, h2))
    module.eval()
    assert torch.equal(module(h1, h2), module(h1, h2))
