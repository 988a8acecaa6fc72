"""The projection against CLEAN's arrays, and what its dropout does."""

import torch

from runner.projection import LayerNormProjection
from tests.golden import load_golden


def test_the_projection_is_cleans():
    golden = load_golden("clean_layernormnet")
    projection = LayerNormProjection(1280, hidden=6, outputs=4).double().eval()
    projection.load_state_dict({name[3:]: value for name, value in golden.items() if name.startswith("sd_")})
    torch.testing.assert_close(projection(golden["x"]), golden["out"], rtol=1e-6, atol=1e-12)


def test_all_parameters_are_used():
    """A layer that forward leaves out has no gradient, which stops distributed training."""
    projection = LayerNormProjection(7)
    projection(torch.randn(5, 7)).square().sum().backward()
    assert projection.width == 256 and projection.fc1.out_features == 512
    for name, parameter in projection.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_dropout_acts_in_training_only():
    projection, x = LayerNormProjection(7, dropout=0.5), torch.randn(5, 7)
    assert not torch.equal(projection(x), projection(x))
    assert torch.equal(projection.eval()(x), projection(x))


def test_layers_are_normalised_before_dropout():
    projection = LayerNormProjection(7, hidden=64, dropout=0.0)
    seen = []
    projection.dropout.register_forward_hook(lambda _, inputs, output: seen.append(inputs[0]))
    projection(torch.randn(5, 7))
    assert len(seen) == 2
    for x in seen:
        assert (x < 0).any()  # the ReLU is yet to come
        torch.testing.assert_close(x.mean(1), torch.zeros(5), rtol=0, atol=1e-5)
