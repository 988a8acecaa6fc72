"""Autocast types, loss scaling against float32, skipped steps, and a scale that survives a requeue."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from runner.config import OptimizerConfig
from runner.errors import ConfigError
from runner.method import Method
from runner.optimizer import build_optimizer
from runner.precision import Precision

CPU = torch.device("cpu")
NAMES = ["no", "bf16", "fp16"]


class Toy(Method):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))

    def encode(self, images):
        return self.encoder(images)


def optimizer_of(method, name="adamw", **options):
    return build_optimizer(method, OptimizerConfig(name=name, lr=1e-3, **options))


@pytest.fixture
def uninitialised_is_nan():
    """Memory that nobody has written holds nan, as it does in deterministic training."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def loss_of(method, precision, step=0):
    generator = torch.Generator().manual_seed(step)
    images, labels = torch.randn(16, 1, 8, 8, generator=generator), torch.arange(16) % 3
    with precision.autocast():
        return F.cross_entropy(method.encode(images), labels)


@pytest.mark.parametrize(("name", "dtype"), [("no", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_autocast_computes_in_the_named_type(name, dtype):
    with Precision(name, CPU).autocast():
        assert Toy().encode(torch.randn(2, 1, 8, 8)).dtype == dtype
    assert Toy().encode(torch.randn(2, 1, 8, 8)).dtype == torch.float32


@pytest.mark.parametrize("name", NAMES)
def test_trains_like_float32(name):
    """Ten clipped steps end where float32 would have brought the weights, within the type's rounding."""
    mine, plain = Toy(), Toy()
    precision = Precision(name, CPU)
    optimizer, reference = (
        optimizer_of(mine),
        torch.optim.AdamW(plain.parameters(), lr=1e-3, weight_decay=0.0),
    )
    for step in range(10):
        optimizer.zero_grad()
        precision.backward(loss_of(mine, precision, step))
        norm = precision.step(optimizer, max_norm=0.5)

        reference.zero_grad()
        loss_of(plain, Precision("no", CPU), step).backward()
        expected = nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        reference.step()
        torch.testing.assert_close(norm, expected, rtol=1e-6 if name == "no" else 0.05, atol=0.0)
    moved = torch.cat([(a - b).flatten() for a, b in zip(plain.parameters(), Toy().parameters(), strict=True)])
    apart = torch.cat([(a - b).flatten() for a, b in zip(plain.parameters(), mine.parameters(), strict=True)])
    assert apart.norm() < (1e-5 if name == "no" else 0.1) * moved.norm()


def test_without_clipping_there_is_no_norm():
    method, precision = Toy(), Precision("no", CPU)
    optimizer = optimizer_of(method)
    precision.backward(loss_of(method, precision))
    assert precision.step(optimizer) is None


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
@pytest.mark.parametrize("max_norm", [None, 1.0])
def test_an_overflow_skips_the_step_and_lowers_the_scale(name, max_norm, uninitialised_is_nan):
    """It is the first step that overflows; torch's fused SGD would go on with uninitialised momentum."""
    method, precision = Toy(), Precision("fp16", CPU)
    optimizer = optimizer_of(method, name)
    before = copy.deepcopy(method.state_dict())
    scale = precision.state_dict()["scale"]
    precision.backward(loss_of(method, precision) * torch.inf)
    norm = precision.step(optimizer, max_norm)
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())
    assert precision.state_dict()["scale"] == scale / 2
    assert norm is None if max_norm is None else not norm.isfinite()

    fresh, fresh_precision = Toy(), Precision("fp16", CPU)
    fresh_optimizer = optimizer_of(fresh, name)
    for step in range(3):
        for toy, its_precision, its_optimizer in (
            (method, precision, optimizer),
            (fresh, fresh_precision, fresh_optimizer),
        ):
            its_optimizer.zero_grad()
            its_precision.backward(loss_of(toy, its_precision, step))
            its_precision.step(its_optimizer, max_norm)
    for value, expected in zip(method.parameters(), fresh.parameters(), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-5)


def test_gradients_of_micro_batches_add_up():
    method, precision = Toy(), Precision("fp16", CPU)
    for step in range(2):
        precision.backward(loss_of(method, precision, step) / 2)
    scale = precision.state_dict()["scale"]
    together = torch.cat([parameter.grad.flatten() / scale for parameter in method.parameters()])
    plain = Toy()
    (sum(loss_of(plain, Precision("no", CPU), step) for step in range(2)) / 2).backward()
    expected = torch.cat([parameter.grad.flatten() for parameter in plain.parameters()])
    assert (together - expected).norm() < 0.01 * expected.norm()


def test_the_loss_scale_survives_a_requeue():
    def run(interrupted):
        method, precision = Toy(), Precision("fp16", CPU)
        optimizer = optimizer_of(method, "sgd")
        for step in range(6):
            if interrupted and step == 4:
                saved = copy.deepcopy((method.state_dict(), optimizer.state_dict(), precision.state_dict()))
                method, precision = Toy(), Precision("fp16", CPU)
                optimizer = optimizer_of(method, "sgd")
                method.load_state_dict(saved[0])
                optimizer.load_state_dict(saved[1])
                precision.load_state_dict(saved[2])
            optimizer.zero_grad()
            precision.backward(loss_of(method, precision, step) * (torch.inf if step == 1 else 1))
            precision.step(optimizer, max_norm=1.0)
        return method.state_dict(), precision.state_dict()

    (weights, scaler), (resumed_weights, resumed_scaler) = run(interrupted=False), run(interrupted=True)
    assert scaler == resumed_scaler
    assert scaler["scale"] == 2**15 and scaler["_growth_tracker"] == 4
    assert all(torch.equal(value, resumed_weights[key]) for key, value in weights.items())


@pytest.mark.parametrize("name", ["no", "bf16"])
def test_without_loss_scaling_there_is_no_state(name):
    precision = Precision(name, CPU)
    assert precision.state_dict() == {}
    precision.load_state_dict({})


def test_bf16_on_a_gpu_without_it_is_refused(monkeypatch):
    # Such a GPU is from before 2020: what it would answer is all there is to feign.
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla V100")
    with pytest.raises(ConfigError, match=r'train\.precision: "bf16" is not allowed on Tesla V100; use fp16 or "no"'):
        Precision("bf16", torch.device("cuda", 0))
    assert Precision("no", torch.device("cuda", 0)).state_dict() == {}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("max_norm", [None, 1.0])
def test_a_step_never_waits_for_the_gpu(name, max_norm):
    device = torch.device("cuda", 0)
    method, precision = Toy().to(device), Precision(name, device)
    optimizer = optimizer_of(method)
    images, labels = torch.randn(16, 1, 8, 8, device=device), (torch.arange(16) % 3).to(device)
    for step in range(3):
        torch.cuda.set_sync_debug_mode("error" if step else "default")
        try:
            optimizer.zero_grad()
            with precision.autocast():
                loss = F.cross_entropy(method.encode(images), labels)
            precision.backward(loss)
            precision.step(optimizer, max_norm)
        finally:
            torch.cuda.set_sync_debug_mode("default")
