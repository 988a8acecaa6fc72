"""Momentum targets against a plain loop over the tensors."""

import copy

import pytest
import torch
from torch import nn

from runner.ema import momentum_at, update_ema
from tests.golden import load_golden


def make_pair(dtype=torch.float32):
    """Two small networks with batch norm, alike but for their values."""
    torch.manual_seed(0)
    online = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 3, bias=False))
    target = copy.deepcopy(online)
    with torch.no_grad():
        for _ in range(3):
            online(torch.randn(5, 1, 8, 8))
        for parameter in online.parameters():
            parameter.add_(torch.randn_like(parameter))
    return target.to(dtype), online.to(dtype)


def follow(target, online, momentum):
    """What the target must be, tensor by tensor in float64, rounded once to its own dtype."""
    expected = {}
    for name, mine in target.state_dict().items():
        theirs = online.state_dict()[name]
        if mine.is_floating_point():
            expected[name] = (momentum * mine.double() + (1 - momentum) * theirs.double()).to(mine.dtype)
        else:
            expected[name] = theirs.clone()
    return expected


# Two roundings of the kernel against one of the reference.
TOLERANCES = {torch.float64: 1e-15, torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("momentum", [0.25, 0.9])
def test_equals_a_loop_over_the_tensors(dtype, momentum):
    target, online = make_pair(dtype)
    before, expected = copy.deepcopy(target.state_dict()), follow(target, online, momentum)
    update_ema(target, online, momentum)
    for name, value in target.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=TOLERANCES[dtype], atol=TOLERANCES[dtype])
        assert not torch.equal(value, before[name]), f"{name} did not move"


def test_every_dtype_moves_and_integer_buffers_follow():
    """One reference system skips bfloat16 and float64 and freezes the batch counter of batch norm."""
    online, target = nn.Module(), nn.Module()
    for module, value in ((online, 1), (target, 0)):
        for name in ("float64", "float32", "float16", "bfloat16"):
            module.register_parameter(
                f"{name}_parameter", nn.Parameter(torch.full((3,), value, dtype=getattr(torch, name)))
            )
            module.register_buffer(f"{name}_buffer", torch.full((3,), value, dtype=getattr(torch, name)))
        module.register_buffer("counter", torch.tensor(24 * value))
        module.register_buffer("flag", torch.tensor(bool(value)))
    update_ema(target, online, 0.75)
    for name, value in target.state_dict().items():
        expected = {"counter": 24, "flag": True}.get(name, 0.25)
        assert (value == expected).all(), (name, value)


def test_momentum_one_keeps_and_zero_copies_bitwise():
    target, online = make_pair()
    before = copy.deepcopy(target.state_dict())
    update_ema(target, online, 1.0)
    for name, value in target.state_dict().items():
        assert torch.equal(value, (before if value.is_floating_point() else online.state_dict())[name]), name
    update_ema(target, online, 0.0)
    for name, value in target.state_dict().items():
        assert torch.equal(value, online.state_dict()[name]), name


def flat_module(values, buffers):
    """A module with one parameter, batch norm's two statistics as one buffer, and its counter."""
    module = nn.Module()
    module.register_parameter("values", nn.Parameter(values.clone()))
    module.register_buffer("statistics", buffers[:-1].float())
    module.register_buffer("num_batches_tracked", buffers[-1].long())
    return module


def test_momentum_and_teacher_equal_the_golden_ones():
    golden = load_golden("ssl_teacher")
    start, end, epochs = golden["cfg"].tolist()
    teacher = flat_module(golden["init_teacher"], golden["init_teacher_buf"])
    for epoch, momentum in enumerate(golden["coef"].tolist()):
        assert momentum_at(epoch, int(epochs), start, end) == pytest.approx(momentum, rel=1e-6)
        student = flat_module(golden["student"][epoch], golden["sbuf"])
        update_ema(teacher, student, momentum_at(epoch, int(epochs), start, end))
        torch.testing.assert_close(teacher.values.detach(), golden["teacher"][epoch], rtol=1e-4, atol=1e-6)


def test_ema_copies_integer_buffers():
    """One reference system averages the batch counter of batch norm as well, and rounds it down to 0."""
    golden = load_golden("ssl_teacher")
    assert golden["tbuf"][-1, -1] == 0 < golden["sbuf"][-1]
    teacher = flat_module(golden["init_teacher"], golden["init_teacher_buf"])
    update_ema(teacher, flat_module(golden["student"][0], golden["sbuf"]), 0.95)
    assert teacher.num_batches_tracked == golden["sbuf"][-1]


def test_momentum_goes_from_start_to_end_and_stays():
    assert momentum_at(0, 10, 0.9) == pytest.approx(0.9)
    assert momentum_at(5, 10, 0.9) == pytest.approx(0.95)
    assert momentum_at(10, 10, 0.9) == momentum_at(11, 10, 0.9) == 1.0


def test_a_tied_weight_moves_once():
    def tied(value):
        module = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
        module[1].weight = module[0].weight
        nn.init.constant_(module[0].weight, value)
        return module

    target = tied(0.0)
    update_ema(target, tied(1.0), 0.5)
    assert target[0].weight.unique().tolist() == [0.5]


def test_needs_no_gradient_and_leaves_none():
    target, online = make_pair()
    target.requires_grad_(False)
    update_ema(target, online, 0.9)
    assert all(parameter.grad_fn is None and parameter.is_leaf for parameter in target.parameters())
    online(torch.randn(2, 1, 8, 8)).sum().backward()  # the update must not have invalidated the online graph


def test_modules_that_are_not_alike_are_refused():
    with pytest.raises(ValueError, match="zip"):
        update_ema(nn.Linear(2, 2), nn.Linear(2, 2, bias=False), 0.9)
    with pytest.raises(AssertionError, match=r"\(2, 2\).*\(3, 2\)"):
        update_ema(nn.Linear(2, 2), nn.Linear(2, 3), 0.9)
    with pytest.raises(AssertionError, match="bfloat16"):
        update_ema(nn.Linear(2, 2, dtype=torch.bfloat16), nn.Linear(2, 2), 0.9)
