"""LARS against golden values, a plain loop, torch's SGD, and across a requeue."""

import copy
import io

import pytest
import torch
from torch import nn

from runner.lars import LARS
from tests.golden import cases, load_golden

OPTIONS = {"lr": 0.3, "momentum": 0.9, "weight_decay": 0.01}


def make_parameters(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    shapes = ((4, 3), (3,), (2, 3, 2), ())
    return [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes]


def fill_gradients(parameters, step):
    generator = torch.Generator().manual_seed(100 + step)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)


def run(optimizer, parameters, steps=5, start=0):
    for step in range(start, start + steps):
        fill_gradients(parameters, step)
        optimizer.step()
    return [parameter.detach().clone() for parameter in parameters]


def naive(parameters, buffers, *, lr, momentum, weight_decay, eta=1e-3, nesterov=False, dampening=0.0, eps=0.0):
    """One step, tensor by tensor, as the formulas read."""
    for index, w in enumerate(parameters):
        g = w.grad
        w_norm, g_norm = w.detach().norm(), g.norm()
        ratio = eta * w_norm / (g_norm + weight_decay * w_norm + eps) if w_norm > 0 and g_norm > 0 else eta
        d = g + weight_decay * w.detach()
        buffers[index] = momentum * buffers[index] + (1 - dampening) * d
        w.data -= lr * ratio * (d + momentum * buffers[index] if nesterov else buffers[index])


def test_four_steps_equal_the_golden_ones():
    """With what that system does at the start: a first buffer of momentum + 1 - dampening, a raw step from zero."""
    golden = load_golden("ssl_lars")
    for case in cases(golden):
        options = dict(zip(golden["cfg_names"].tolist(), case["cfg"].tolist(), strict=True))
        parameters = [nn.Parameter(case[name][0].clone()) for name in ("p1", "p2")]
        options |= {"eps": options.pop("epsilon"), "nesterov": bool(options["nesterov"])}
        optimizer = LARS(parameters, **options, stable_ssl_start=True)
        for step in range(4):
            for parameter, name in zip(parameters, ("g1", "g2"), strict=True):
                parameter.grad = case[name][step].clone()
            optimizer.step()
            for parameter, name in zip(parameters, ("p1", "p2"), strict=True):
                torch.testing.assert_close(parameter.detach(), case[name][step + 1], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"nesterov": True},
        {"dampening": 0.3},
        {"momentum": 0.0},
        {"weight_decay": 0.0},
        {"eta": 0.02, "eps": 1e-3},
    ],
    ids=str,
)
def test_equals_a_plain_loop(options):
    options = OPTIONS | options
    mine, plain = make_parameters(torch.float64), make_parameters(torch.float64)
    optimizer, buffers = LARS(mine, **options), [torch.zeros_like(parameter) for parameter in plain]
    for step in range(5):
        fill_gradients(mine, step)
        fill_gradients(plain, step)
        optimizer.step()
        naive(plain, buffers, **options)
        for found, wanted in zip(mine, plain, strict=True):
            torch.testing.assert_close(found.detach(), wanted.detach(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("nesterov", [False, True])
def test_lars_does_not_adapt_biases(nesterov):
    """Their group takes plain SGD steps, the first one from zero as well."""
    mine, plain = make_parameters(), make_parameters()
    for parameter in (mine[1], plain[1]):
        parameter.data.zero_()
    optimizer = LARS(
        [{"params": mine[::2]}, {"params": mine[1::2], "adapt": False, "weight_decay": 0.0}],
        **OPTIONS,
        nesterov=nesterov,
    )
    reference = torch.optim.SGD(plain[1::2], lr=0.3, momentum=0.9, nesterov=nesterov)
    run(optimizer, mine)
    run(reference, plain)
    for found, wanted in zip(mine[1::2], plain[1::2], strict=True):
        torch.testing.assert_close(found.detach(), wanted.detach(), rtol=1e-6, atol=1e-7)


def test_a_weight_of_zeros_moves_like_the_others():
    """One reference system lets it take the raw learning rate, 5 in its configurations."""
    weight = nn.Parameter(torch.zeros(3, 2))
    weight.grad = torch.ones(3, 2)
    LARS([weight], lr=5.0).step()
    torch.testing.assert_close(weight.detach(), torch.full((3, 2), -5e-3))
    still = nn.Parameter(torch.ones(3, 2))
    still.grad = torch.zeros(3, 2)
    LARS([still], lr=5.0, weight_decay=0.1).step()
    assert ((still.detach() - 1).abs() < 1e-3).all()


def test_the_step_does_not_depend_on_the_scale_of_the_gradient():
    first, second = make_parameters(), make_parameters()
    optimizers = [LARS(parameters, lr=1.0, momentum=0.0) for parameters in (first, second)]
    for parameters, optimizer, scale in zip((first, second), optimizers, (1.0, 1024.0), strict=True):
        fill_gradients(parameters, 0)
        for parameter in parameters:
            parameter.grad *= scale
        optimizer.step()
    for mine, theirs in zip(first, second, strict=True):
        torch.testing.assert_close(mine.detach(), theirs.detach())


@pytest.mark.parametrize("start", [False, True])
def test_a_resumed_run_agrees_bitwise(start):
    options = OPTIONS | {"nesterov": True, "stable_ssl_start": start}
    whole = make_parameters()
    expected = run(LARS(whole, **options), whole, steps=6)

    parameters = make_parameters()
    optimizer = LARS(parameters, **options)
    run(optimizer, parameters, steps=3)
    file = io.BytesIO()
    torch.save((parameters, optimizer.state_dict()), file)
    file.seek(0)
    parameters, state = torch.load(file, weights_only=False)
    optimizer = LARS(parameters, **options)
    optimizer.load_state_dict(state)
    found = run(optimizer, parameters, steps=3, start=3)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, expected, strict=True))


def test_gradients_are_left_as_they_are_and_missing_ones_move_nothing():
    parameters = make_parameters()
    optimizer = LARS(parameters, **OPTIONS)
    fill_gradients(parameters, 0)
    parameters[2].grad = None
    before = copy.deepcopy([(parameter.detach(), parameter.grad) for parameter in parameters])
    optimizer.step()
    for parameter, (value, grad) in zip(parameters, before, strict=True):
        assert torch.equal(parameter, value) == (grad is None)
        assert grad is None or torch.equal(parameter.grad, grad)
    assert parameters[2] not in optimizer.state
    optimizer.zero_grad()
    optimizer.step()


def test_dtypes_may_be_mixed():
    mixed = [nn.Parameter(p.detach().double() if p.ndim == 1 else p.detach()) for p in make_parameters()]
    run(LARS(mixed, **OPTIONS), mixed)
    plain = make_parameters()
    run(LARS(plain, **OPTIONS), plain)
    for mine, theirs in zip(mixed, plain, strict=True):
        torch.testing.assert_close(mine.detach().float(), theirs.detach(), rtol=1e-5, atol=1e-6)


def test_a_closure_is_evaluated_with_gradients():
    weight = nn.Parameter(torch.ones(2, 2))
    optimizer = LARS([weight], lr=1.0)

    def closure():
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 4
    torch.testing.assert_close(weight.detach(), torch.full((2, 2), 1 - 1e-3))
