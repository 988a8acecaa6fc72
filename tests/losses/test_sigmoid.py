"""Modulated sigmoid loss: golden values, gradients, precision, tiles, and defects it must not have."""

import math
from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from runner.group import Group
from runner.losses.sigmoid import logit_of_penalty, scl, siglip
from tests.golden import cases, load_golden
from tests.losses import naive

ALONE = Group()
VALUE = {"rtol": 1e-6, "atol": 1e-9}
GRADIENT = {"rtol": 1e-5, "atol": 1e-9}


def leaf(array):
    return torch.as_tensor(array).clone().requires_grad_()


def close(actual, expected, **tolerance):
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=actual.dtype), **tolerance)


def random_case(n=23, d=8, dtype=torch.float64, seed=0, log_scale=1.2, bias=-2.0):
    """x, y, log_scale, bias; y resembles x, as views of one sample do."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, dtype=torch.float64, generator=generator)
    y = x + 0.7 * torch.randn(n, d, dtype=torch.float64, generator=generator)
    numbers = (torch.tensor(value, dtype=torch.float64) for value in (log_scale, bias))
    return [leaf(array.to(dtype)) for array in (x, y, *numbers)]


def gradients(loss, inputs):
    return torch.autograd.grad(loss, inputs, allow_unused=True)


@pytest.mark.parametrize("block", [None, 4])
def test_values_and_gradients_equal_the_golden_ones(block):
    golden = load_golden("scl_loss")
    for (gamma, alpha, log_scale, bias), case in zip(golden["params"].tolist(), cases(golden), strict=True):
        inputs = [
            leaf(case["x"]),
            leaf(case["xp"]),
            *(leaf(torch.tensor(v).double()) for v in (log_scale, bias)),
        ]
        loss, kl = scl(*inputs, ALONE, gamma=gamma, alpha=alpha, clamp="hard", measure_kl=True, block=block)
        close(loss, case["loss"], **VALUE)
        close(kl, case["kl"], **VALUE)
        for name, gradient in zip(("gx", "gxp", "gtau", "gb"), gradients(loss, inputs), strict=True):
            close(gradient, case[name], **GRADIENT)


def test_penalty_filtering_equals_the_golden_values():
    """The file's steps up to 5000 do not filter; that decision belongs to the method."""
    golden = load_golden("scl_penalty_filtering")
    for (gamma, threshold, step), case in zip(golden["params"].tolist(), cases(golden), strict=True):
        inputs = [
            leaf(case["x"]),
            leaf(case["xp"]),
            leaf(torch.tensor(4.0).double().log()),
            leaf(torch.tensor(-2.0).double()),
        ]
        filter_threshold = threshold if step > 5000 else None
        loss, _ = scl(*inputs, ALONE, gamma=gamma, alpha=0.5, filter_threshold=filter_threshold, block=4)
        close(loss, case["loss"], **VALUE)
        for name, gradient in zip(("gx", "gxp", "gtau", "gb"), gradients(loss, inputs), strict=True):
            close(gradient, case[name], **GRADIENT)


def test_multicrop_is_the_mean_over_pairs_of_different_views():
    golden = load_golden("scl_multicrop")
    for case in cases(golden):
        globals_, locals_, gamma, alpha = case["cfg"].tolist()
        pairs = [(v, t) for t in range(int(globals_)) for v in range(int(globals_ + locals_)) if v != t]
        inputs = [leaf(case["online"]), leaf(case["target"]), leaf(case["tau"]), leaf(case["b"])]
        online, target, *numbers = inputs
        loss, _ = scl(
            online.transpose(0, 1),
            target.transpose(0, 1),
            *numbers,
            ALONE,
            gamma=gamma,
            alpha=alpha,
            pairs=pairs,
        )
        close(loss, case["loss"], **VALUE)
        for name, gradient in zip(("gonline", "gtarget", "gtau", "gb"), gradients(loss, inputs), strict=True):
            close(gradient, case[name], **GRADIENT)


@pytest.mark.parametrize("filter_threshold", [None, 0.1])
@pytest.mark.parametrize("alpha", [0.0, 0.7])
@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 2.5])
def test_equals_the_naive_loss(gamma, alpha, filter_threshold):
    inputs = random_case()
    options = {"gamma": gamma, "alpha": alpha, "filter_threshold": filter_threshold}
    expected, expected_kl = naive.scl(*inputs, **options)
    loss, kl = scl(*inputs, ALONE, **options, block=5)
    close(loss, expected.detach(), rtol=1e-12, atol=0)
    assert (kl is None) == (alpha == 0)
    if kl is not None:
        close(kl, expected_kl.detach(), rtol=1e-12, atol=0)
    for mine, theirs in zip(gradients(loss, inputs), gradients(expected, inputs), strict=True):
        close(mine, theirs, rtol=1e-10, atol=1e-14)


def test_siglip_is_the_loss_without_modulation_and_invariance():
    inputs = random_case(log_scale=math.log(10), bias=-10.0)
    close(siglip(*inputs, ALONE), naive.scl(*inputs, gamma=0.0, max_scale=None)[0].detach(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("gamma, alpha, filter_threshold", [(0.5, 0.0, None), (1.0, 0.6, None), (2.0, 0.4, 0.05)])
def test_gradcheck(gamma, alpha, filter_threshold):
    function = partial(scl, group=ALONE, gamma=gamma, alpha=alpha, filter_threshold=filter_threshold, block=3)
    assert torch.autograd.gradcheck(lambda *inputs: function(*inputs).loss, random_case(n=7, d=4))


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (3,), (0, 2, 3), (1, 3)])
def test_a_side_without_gradient_changes_nothing_for_the_others(wanted):
    inputs = random_case()
    full = gradients(scl(*inputs, ALONE, alpha=0.5, block=6).loss, inputs)
    some = [tensor if index in wanted else tensor.detach() for index, tensor in enumerate(inputs)]
    loss = scl(*some, ALONE, alpha=0.5, block=6).loss
    for index, gradient in zip(wanted, gradients(loss, [inputs[index] for index in wanted]), strict=True):
        close(gradient, full[index], rtol=1e-12, atol=1e-16)


class Multiplications(TorchDispatchMode):
    """Counts the multiply-adds of matrix products."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if "mm" in function.__name__:
            *_, left, right = args
            self.count += left.shape[0] * left.shape[1] * right.shape[1]
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_a_side_without_gradient_costs_nothing(alpha):
    x, y, log_scale, bias = random_case(n=64, d=32, dtype=torch.float32)

    def work(y):
        with Multiplications() as multiplications:
            scl(x, y, log_scale, bias, ALONE, alpha=alpha, block=16).loss.backward()
        return multiplications.count / (64 * 64 * 32)

    # S and G y; G^T x where it is wanted
    assert work(y.detach()) == 2
    assert work(y) == 3


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_no_result_depends_on_the_block(alpha):
    inputs = random_case(n=100, d=16, dtype=torch.float32)
    results = []
    for block in (3, 7, 32, 100, 512):
        loss, _ = scl(*inputs, ALONE, alpha=alpha, block=block)
        results.append((loss.detach(), *gradients(loss, inputs)))
    for other in results[1:]:
        for mine, theirs in zip(other, results[0], strict=True):
            assert (mine - theirs).norm() <= 1e-6 * theirs.norm()


def test_results_do_not_depend_on_which_tiles_are_kept(monkeypatch):
    inputs = random_case(n=100, d=16)
    kept = gradients(scl(*inputs, ALONE, alpha=1.0, block=10).loss, inputs)
    monkeypatch.setattr("runner.losses.tiles.KEPT_BYTES", {"cpu": 7 * 2 * 100 * 8})
    for mine, theirs in zip(gradients(scl(*inputs, ALONE, alpha=1.0, block=10).loss, inputs), kept, strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale, gamma", [(5.0, 1.0), (100.0, 0.5), (100.0, 1.0)])
def test_autocast_is_float32_inside(dtype, scale, gamma):
    """Projections arrive rounded, as from an autocast projector; nothing is rounded after that."""
    x, y, _, bias = random_case(n=64, d=32, dtype=torch.float32)
    log_scale = leaf(torch.tensor(scale).log())
    options = {"gamma": gamma, "alpha": 1.0, "max_scale": None}
    exact = scl(x, y, log_scale, bias, ALONE, **options)
    low = [leaf(x.detach().to(dtype)), leaf(y.detach().to(dtype)), log_scale, bias]
    with torch.autocast("cpu", dtype=dtype):
        loss, kl = scl(*low, ALONE, **options)
    assert loss.dtype == kl.dtype == torch.float32
    close(loss, exact.loss.detach(), rtol=1e-2, atol=0)
    close(kl, exact.kl, rtol=1e-2, atol=0)
    found, wanted = gradients(loss, low), gradients(exact.loss, (x, y, log_scale, bias))
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine.isfinite().all()
        assert (mine.float() - theirs).norm() <= 2e-2 * theirs.norm()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_finite_at_temperature_one_hundredth(gamma):
    """Also for rows that agree or oppose exactly, where exp(2 * scale) would overflow float32."""
    x = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    y = x.clone()
    y[::2] *= -1
    inputs = [leaf(x), leaf(y), leaf(torch.tensor(100.0).log()), leaf(torch.tensor(0.0))]
    exact = [leaf(tensor.detach().double()) for tensor in inputs]
    loss = scl(*inputs, ALONE, gamma=gamma, alpha=1.0, max_scale=None, block=5).loss
    expected = scl(*exact, ALONE, gamma=gamma, alpha=1.0, max_scale=None, block=5).loss
    close(loss, expected.detach(), rtol=1e-5, atol=0)
    for mine, theirs in zip(gradients(loss, inputs), gradients(expected, exact), strict=True):
        assert mine.isfinite().all()
        assert (mine.double() - theirs).norm() <= 1e-4 * theirs.norm() + 1e-6


def test_float32_is_as_exact_as_the_naive_loss_in_float32():
    """Against float64 at scale 100: at most 2e-6 relative in the gradients."""
    exact = random_case(n=256, d=64, log_scale=math.log(100), bias=-10.0)
    single = [leaf(tensor.detach().float()) for tensor in exact]
    exact = [leaf(tensor.detach().double()) for tensor in single]
    for alpha in (0.0, 1.0):
        wanted = gradients(scl(*exact, ALONE, alpha=alpha, max_scale=None).loss, exact)
        found = gradients(scl(*single, ALONE, alpha=alpha, max_scale=None).loss, single)
        for mine, theirs in zip(found[:2], wanted[:2], strict=True):
            assert (mine.double() - theirs).norm() <= 2e-6 * theirs.norm()


def test_one_row():
    inputs = random_case(n=1)
    loss, kl = scl(*inputs, ALONE, alpha=1.0)
    close(loss, naive.scl(*inputs, alpha=1.0)[0].detach(), rtol=1e-12, atol=0)
    assert kl == 0


def test_the_scale_keeps_its_gradient_beyond_the_clamp():
    """A reference system clamps hard, and starts at the bound: only weight decay ever moves its scale."""
    for log_scale in (math.log(5.0), math.log(5.2), math.log(8.0)):
        inputs = random_case(log_scale=log_scale)
        loss = scl(*inputs, ALONE).loss
        (gradient,) = gradients(loss, inputs[2:3])
        at_bound = random_case(log_scale=math.log(5.0))
        hard = scl(*at_bound, ALONE, max_scale=6.0).loss
        close(loss, hard.detach(), rtol=1e-12, atol=0)
        close(gradient, gradients(hard, at_bound[2:3])[0], rtol=1e-12, atol=0)


def test_a_scale_beyond_the_clamp_comes_back():
    """All rows alike: the loss wants the smallest scale."""
    log_scale = leaf(torch.tensor(math.log(50.0)))
    x, bias = torch.ones(8, 4), torch.tensor(0.0)
    optimizer = torch.optim.SGD([log_scale], lr=0.1)
    for _ in range(30):
        optimizer.zero_grad()
        scl(x, x, log_scale, bias, ALONE).loss.backward()
        optimizer.step()
    assert log_scale.exp() < 5


@pytest.mark.parametrize("gamma", [0.1, 0.5, 0.9])
def test_modulation_with_small_gamma_has_no_infinite_derivative(gamma):
    """As a power, (1 - p)^gamma has an infinite derivative where 1 - p underflows: logits above 17."""
    x = torch.eye(4, 8)
    inputs = [leaf(x), leaf(x), leaf(torch.tensor(60.0).log()), leaf(torch.tensor(40.0))]
    assert not naive.scl(*inputs, gamma=gamma, max_scale=None)[0].isnan()
    assert any(not g.isfinite().all() for g in gradients(naive.scl(*inputs, gamma=gamma, max_scale=None)[0], inputs))
    loss = scl(*inputs, ALONE, gamma=gamma, max_scale=None).loss
    assert all(gradient.isfinite().all() for gradient in gradients(loss, inputs))


def test_smaller_batches_are_another_loss():
    """Negatives only count within one call: halves are not an accumulation of the whole."""
    x, y, log_scale, bias = (tensor.detach() for tensor in random_case(n=24))
    whole = scl(x, y, log_scale, bias, ALONE).loss
    halves = [scl(x[part], y[part], log_scale, bias, ALONE).loss for part in (slice(12), slice(12, None))]
    assert sum(halves) / 2 < 0.9 * whole


@pytest.mark.parametrize("threshold, gamma", [(0.05, 1.0), (0.5, 2.0), (0.01, 0.3), (0.999, 1.0), (1e-30, 0.1)])
def test_logit_of_penalty(threshold, gamma):
    logit = torch.tensor(logit_of_penalty(threshold, gamma), dtype=torch.float64)
    close(logit.sigmoid() ** gamma, threshold, rtol=1e-9, atol=0)


def test_filtering_without_modulation_keeps_every_pair():
    inputs = random_case()
    assert logit_of_penalty(0.05, 0.0) == logit_of_penalty(0.0, 1.0) == -math.inf
    filtered = scl(*inputs, ALONE, gamma=0.0, filter_threshold=0.5).loss
    assert filtered == scl(*inputs, ALONE, gamma=0.0).loss
