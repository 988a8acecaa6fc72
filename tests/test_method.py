"""What a method returns becomes one scalar to differentiate and one number per part to log."""

import pytest
import torch
from torch import nn

from runner.batch import Batch
from runner.method import Method, name_losses

ONE, TWO = torch.tensor(1.0), torch.tensor(2.0)


class Fixed(Method):
    """A method whose losses are its weight times what it is told."""

    def __init__(self, losses, measured=None):
        super().__init__()
        self.encoder = nn.Linear(1, 1, bias=False)
        self.head = nn.Linear(1, 1)
        self.losses, self.measured = losses, measured
        nn.init.ones_(self.encoder.weight)

    def compute_loss(self, batch, step):
        weight = self.encoder.weight.sum()
        if isinstance(self.losses, dict):
            losses = {name: weight * value for name, value in self.losses.items()}
        elif isinstance(self.losses, list):
            losses = [weight * value for value in self.losses]
        else:
            losses = weight * self.losses
        return losses if self.measured is None else (losses, self.measured)


def output_of(method):
    return method(Batch(torch.zeros(1, 1, 1, 1, 1)), 0)


@pytest.mark.parametrize(
    ("losses", "named"),
    [
        (ONE, {"loss": ONE}),
        ([ONE, TWO], {"loss_0": ONE, "loss_1": TWO}),
        ((ONE, TWO), {"loss_0": ONE, "loss_1": TWO}),
        ({"contrast": ONE, "kl": TWO}, {"contrast": ONE, "kl": TWO}),
        ([TWO], {"loss": TWO}),
        ({"contrast": TWO}, {"loss": TWO}),
    ],
    ids=repr,
)
def test_names_of_losses(losses, named):
    assert name_losses(losses) == named


@pytest.mark.parametrize("losses", [[], {}, ()])
def test_no_loss_at_all_is_an_error(losses):
    with pytest.raises(ValueError, match="returned no loss at all"):
        name_losses(losses)


def test_a_part_may_not_take_the_name_of_the_sum():
    with pytest.raises(ValueError, match='"loss" is the name of the sum'):
        name_losses({"loss": ONE, "kl": TWO})


@pytest.mark.parametrize(
    ("losses", "logged"),
    [
        (3.0, {"loss": 3.0}),
        ([1.0, 2.5], {"loss": 3.5, "loss_0": 1.0, "loss_1": 2.5}),
        ({"contrast": 1.0, "kl": 0.25}, {"loss": 1.25, "contrast": 1.0, "kl": 0.25}),
    ],
    ids=repr,
)
def test_parts_are_summed_and_each_is_logged(losses, logged):
    method = Fixed(losses)
    output = output_of(method)
    output.loss.backward()
    assert output.loss.item() == logged["loss"]
    assert method.encoder.weight.grad.item() == logged["loss"], "the gradient is that of the sum"
    assert {name: value.item() for name, value in output.measurements.items()} == logged
    assert not any(value.requires_grad for value in output.measurements.values())


def test_measurements_are_logged_beside_the_losses():
    output = output_of(Fixed([1.0, 2.0], {"temperature": 0.5, "norm": TWO}))
    assert list(output.measurements) == ["loss", "loss_0", "loss_1", "temperature", "norm"]
    assert output.measurements["temperature"] == 0.5, "a number of the host stays one"


def test_parts_in_16_bits_are_summed_in_32():
    for losses, told in (
        (None, "compute_loss returned NoneType; must be a scalar tensor, or a list or a dict of them"),
        (0.5, "compute_loss returned float"),
        ({"kl": 0.5}, "compute_loss: kl is float; must be a tensor without dimensions"),
        (torch.zeros(4), r"compute_loss: loss is \(4,\); must be"),
    ):
        with pytest.raises(TypeError, match=told):
            name_losses(losses)
    parts = name_losses([torch.tensor(256.0, dtype=torch.bfloat16), torch.tensor(0.5, dtype=torch.bfloat16)])
    method = Method()
    method.compute_loss = lambda batch, step: parts
    output = output_of(method)
    assert output.loss.dtype == torch.float32 and output.loss.item() == 256.5


def test_parameters_are_grouped_by_the_encoder_and_the_rest():
    method = Fixed(1.0)
    method.head.bias.requires_grad_(False)
    groups = method.parameter_groups()
    assert groups == {"encoder": [method.encoder.weight], "head": [method.head.weight]}
    assert method.no_weight_decay() == set()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda method: method.compute_loss(None, 0), "Method must define compute_loss"),
        (lambda method: method.encode(ONE), "Method must define encode"),
        (lambda method: method.embed(Batch([ONE])), "Method must define encode"),
    ],
)
def test_what_is_left_undefined_is_named(call, message):
    with pytest.raises(NotImplementedError, match=message):
        call(Method())
