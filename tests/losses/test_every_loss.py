"""What every loss of the table must keep: formula, gradient, precision, independence of the tiles."""

import pytest
import torch

from runner.group import Group
from tests.losses.table import CASES, labels_of
from tests.losses.test_sigmoid import close, leaf, random_case

ALONE = Group()
EVERY = pytest.mark.parametrize("name", CASES)
BLOCKWISE = pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.blockwise])
SCALED = [name for name in CASES if name != "triplet"]
DIFFERENTIABLE = [name for name in CASES if "detached" not in name]  # differences see what moves the targets


def options(name, block):
    return {"block": block} if CASES[name].blockwise else {}


def evaluate(name, inputs, block=None):
    """The loss and its gradients."""
    loss = CASES[name].loss(*inputs, labels_of(torch.arange(len(inputs[0]))), ALONE, **options(name, block))
    return loss, gradients(loss, inputs)


def gradients(loss, inputs):
    """Zeros for what it does not depend on."""
    return torch.autograd.grad(loss, inputs, materialize_grads=True)


def unit_case(n, d, temperature=0.3, seeds=(0, 0)):
    """x, y, log_scale in float32, rows of length 1; with different seeds x and y have nothing in common."""
    x, y = (random_case(n, d, seed=seed)[side].detach() for side, seed in enumerate(seeds))
    x, y = (leaf(torch.nn.functional.normalize(rows, dim=1).float()) for rows in (x, y))
    return [x, y, leaf(torch.tensor(1 / temperature).log())]


@EVERY
@pytest.mark.parametrize("rows", [1, 2, 23])
def test_equals_the_naive_loss(name, rows):
    inputs = random_case(n=rows)[:3]
    loss, found = evaluate(name, inputs, block=5)
    expected = CASES[name].naive(*inputs, labels_of(torch.arange(rows)))
    close(loss, expected.detach(), rtol=1e-12, atol=1e-13)
    for mine, theirs in zip(found, gradients(expected, inputs), strict=True):
        close(mine, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradcheck(name):
    inputs = random_case(n=7, d=4)[:3]

    def loss(*inputs):
        return CASES[name].loss(*inputs, labels_of(torch.arange(7)), ALONE, **options(name, 3))

    assert torch.autograd.gradcheck(loss, inputs)


@EVERY
@pytest.mark.parametrize("wanted", [(0,), (1,), (2,)])
def test_an_input_without_gradient_changes_nothing_for_the_others(name, wanted):
    inputs = random_case(n=11)[:3]
    _, full = evaluate(name, inputs, block=4)
    some = [tensor if index in wanted else tensor.detach() for index, tensor in enumerate(inputs)]
    loss = CASES[name].loss(*some, labels_of(torch.arange(11)), ALONE, **options(name, 4))
    if not loss.requires_grad:
        assert not full[wanted[0]].any()
        return
    (mine,) = gradients(loss, [inputs[wanted[0]]])
    close(mine, full[wanted[0]], rtol=1e-12, atol=1e-15)


@BLOCKWISE
def test_no_result_depends_on_the_block(name):
    inputs = unit_case(n=100, d=16)
    loss, wanted = evaluate(name, inputs, block=512)
    for block in (3, 7, 32, 100):
        other, found = evaluate(name, inputs, block)
        for mine, theirs in zip((other, *found), (loss, *wanted), strict=True):
            assert (mine - theirs).norm() <= 1e-6 * theirs.norm()


@EVERY
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("temperature", [0.1, 0.01])
def test_autocast_is_float32_inside(name, dtype, temperature):
    """Nothing is rounded but what arrives rounded, as from an autocast projector."""
    x, y, log_scale = unit_case(n=64, d=32, temperature=temperature, seeds=(0, 1))
    exact, wanted = evaluate(name, (x, y, log_scale))
    with torch.autocast("cpu", dtype=dtype):
        same, found = evaluate(name, (x, y, log_scale))
        rounded = [leaf(x.detach().to(dtype)), leaf(y.detach().to(dtype)), log_scale]
        loss, of_rounded = evaluate(name, rounded)
    for mine, theirs in zip((same, *found), (exact, *wanted), strict=True):
        assert torch.equal(mine, theirs)
    assert loss.dtype == torch.float32
    close(loss, exact.detach(), rtol=1e-2, atol=0)
    assert all(gradient.isfinite().all() for gradient in of_rounded)


@pytest.mark.parametrize("name", SCALED)
def test_float32_is_exact_at_temperature_one_hundredth(name):
    """With rows that agree and rows that oppose each other, where exp(2 / temperature) overflows float32."""
    single = unit_case(n=60, d=64, temperature=0.01)
    with torch.no_grad():
        x, y, _ = single
        y[::7] = -x[::7]
        y[1::7] = x[1::7]
    exact = [leaf(tensor.detach().double()) for tensor in single]
    loss, found = evaluate(name, single, block=16)
    expected, wanted = evaluate(name, exact, block=16)
    close(loss, expected.detach(), rtol=1e-5, atol=0)
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine.isfinite().all()
        assert (mine.double() - theirs).norm() <= 2e-5 * theirs.norm() + 2e-6


@BLOCKWISE
def test_results_do_not_depend_on_which_tiles_are_kept(name, monkeypatch):
    inputs = random_case(n=40)[:3]
    _, kept = evaluate(name, inputs, block=10)
    monkeypatch.setattr("runner.losses.tiles.KEPT_BYTES", {"cpu": 3 * 2 * 100 * 8})
    for mine, theirs in zip(evaluate(name, inputs, block=10)[1], kept, strict=True):
        assert torch.equal(mine, theirs)
