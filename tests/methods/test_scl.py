"""SCL: schedules and target network against golden values, the loss over views, what a requeue must keep."""

import math

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from runner.batch import Batch
from runner.errors import ConfigError
from runner.group import Group
from runner.method import Task
from runner.methods._momentum_target import beta_at, ema_beta, gamma_at
from runner.methods.scl import SCL, Config, build
from tests.golden import load_golden
from tests.losses import naive
from tests.ranks import run_ranks


class Encoder(nn.Module):
    """Flattened pixels through one layer; local views are smaller, so images are pooled to one size first."""

    def __init__(self, width=8, batch_norm=True):
        super().__init__()
        self.width = width
        self.layers = nn.Sequential(
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(12, width),
            nn.BatchNorm1d(width) if batch_norm else nn.Identity(),
        )

    def forward(self, images_BCHW):
        return self.layers(images_BCHW)


def make(steps=100, batch_norm=True, seed=0, **options):
    torch.manual_seed(seed)
    options = {"projector_hidden": 16, "projector_width": 4, "projector_batch_norm": batch_norm, **options}
    return build(Config(**options), Encoder(batch_norm=batch_norm), Task(steps))


def make_batch(step=0, rows=12, global_views=2, local_views=3, dtype=torch.float32):
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(rows, 3, 8, 8, generator=generator, dtype=dtype)
    noise = [0.3 * torch.randn(images.shape, generator=generator, dtype=dtype) for _ in range(5)]
    views = [images + one for one in noise]
    return Batch(views[:global_views], [view[:, :, :4, :4] for view in views[2 : 2 + local_views]])


def train(method, steps, optimizer=None, start=0):
    """Plain steps as the trainer does them; the losses."""
    optimizer = optimizer or torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    method.train()
    for step in range(start, start + steps):
        optimizer.zero_grad()
        loss = method(make_batch(step), step).loss
        loss.backward()
        optimizer.step()
        method.after_fit_step(step + 1)
        losses.append(loss.detach())
    return losses, optimizer


def test_gamma_equals_the_golden_values():
    golden = load_golden("scl_schedules")
    for index in range(3):
        start, end, steps = golden[f"gamma{index}_args"].tolist()
        found = [gamma_at(step, start, end, int(steps)) for step in golden["steps"].tolist()]
        assert found == pytest.approx(golden[f"gamma{index}"].tolist(), rel=1e-6, abs=1e-12)
    assert gamma_at(10**6, 0.7, 0.0, None) == 0.7


def test_beta_equals_the_golden_values():
    golden = load_golden("scl_schedules")
    for index in range(3):
        steps, start = golden[f"beta{index}_args"].tolist()
        found = [beta_at(step, start, int(steps)) for step in golden["steps_beta"].tolist()]
        assert found == pytest.approx(golden[f"beta{index}"].tolist(), rel=1e-6)


def test_beta_reaches_one_with_the_last_step():
    """A reference system plans two epochs more than it trains, and never arrives."""
    assert beta_at(1000, 0.995, 1000) == beta_at(1001, 0.995, 1000) == 1.0
    assert beta_at(999, 0.995, 1000) < 1.0


def test_ema_takes_the_beta_of_the_update_before():
    golden = load_golden("scl_ema")
    total, after, every, start = golden["cfg"].tolist()
    for step, (did, used) in enumerate(zip(golden["did"].tolist(), golden["beta_used"].tolist(), strict=True)):
        beta = ema_beta(step, start, int(total), int(after), int(every))
        assert beta == pytest.approx({0: 1.0, 1: used, 2: 0.0}[did], rel=1e-6)


@pytest.mark.parametrize("every", [1, 3, 4])
def test_ema_beta_needs_no_memory(every):
    """A function of the step equals the loop that carries beta from update to update."""
    beta = 0.9
    for step in range(1, 51):
        if step <= 5:
            expected = 0.0
        elif step % every == 0:
            expected, beta = beta, beta_at(step, 0.9, 50)
        else:
            expected = 1.0
        assert ema_beta(step, 0.9, 50, after=5, every=every) == expected


def test_the_target_equals_the_golden_one_at_every_step():
    """Parameters and running statistics. The counter of batch norm is copied here; there it is frozen."""
    golden = load_golden("scl_ema")
    total, after, every, beta = golden["cfg"].tolist()
    encoder = nn.Linear(4, 5)
    encoder.width = 5
    config = Config(
        beta=beta,
        ema_after_steps=int(after),
        ema_every_steps=int(every),
        projector_hidden=6,
        projector_width=3,
    )
    method = build(config, encoder, Task(int(total)))
    online = nn.ModuleList([method.encoder, method.projector])
    target = nn.ModuleList([method.target_encoder, method.target_projector])
    nn.utils.vector_to_parameters(golden["init_target"], target.parameters())
    mean, variance, count = online.buffers()
    for step in range(len(golden["did"])):
        nn.utils.vector_to_parameters(golden["online"][step], online.parameters())
        buffers = golden["online_buf"][step]
        mean.copy_(buffers[:6]), variance.copy_(buffers[6:12]), count.copy_(buffers[12])
        method.after_fit_step(step)
        found = nn.utils.parameters_to_vector(target.parameters())
        torch.testing.assert_close(found, golden["target"][step], rtol=1e-4, atol=1e-6)
        *floats, counter = target.buffers()
        torch.testing.assert_close(torch.cat(floats).double(), golden["target_buf"][step][:12], rtol=1e-4, atol=1e-6)
        assert counter == count


@pytest.mark.parametrize("global_views, local_views", [(2, 0), (2, 3), (1, 2)])
def test_loss_is_the_mean_over_global_targets_and_other_views(global_views, local_views):
    method = make(alpha=0.5, gamma=0.7).double()
    batch = make_batch(global_views=global_views, local_views=local_views, dtype=torch.float64)
    loss, measured = method.compute_loss(batch, 0)
    views = [*batch.global_views, *batch.local_views]
    online = [method.projector(method.encoder(view)) for view in views]
    target = [method.target_projector(method.target_encoder(view)).detach() for view in batch.global_views]
    pairs = [
        naive.scl(x, y, method.log_scale, method.bias, gamma=0.7, alpha=0.5)
        for t, y in enumerate(target)
        for v, x in enumerate(online)
        if v != t
    ]
    assert len(pairs) == global_views * (global_views + local_views - 1)
    torch.testing.assert_close(loss, sum(loss for loss, _ in pairs) / len(pairs), rtol=1e-10, atol=0)
    torch.testing.assert_close(measured["kl"], sum(kl for _, kl in pairs).detach() / len(pairs), rtol=1e-10, atol=0)


def test_one_view_is_refused():
    with pytest.raises(ConfigError, match="at least 2"):
        make()(make_batch(global_views=1, local_views=0), 0)


def test_filtering_starts_after_the_warmup():
    """Strictly after: at the step itself every pair still counts."""
    losses = {}
    for threshold in (None, 0.3):
        method = make(filter_threshold=threshold, filter_warmup_steps=7).eval()
        losses[threshold] = [method(make_batch(), step).loss.item() for step in (6, 7, 8)]
    assert losses[0.3][:2] == losses[None][:2] and losses[0.3][2] != losses[None][2]


def test_gamma_follows_its_schedule():
    method, plain = (make(gamma_schedule_steps=steps).eval() for steps in (10, None))
    assert method(make_batch(), 0).loss == plain(make_batch(), 0).loss
    assert method(make_batch(), 10).loss == make(gamma=0.0).eval()(make_batch(), 0).loss
    assert method(make_batch(), 5).measurements["gamma"] == pytest.approx(0.5)


def test_the_target_has_no_gradient_and_starts_alike():
    method = make()
    method(make_batch(), 0).loss.backward()
    trained = {name for name, parameter in method.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in method.named_parameters() if not name.startswith("target_")}
    assert all(parameter.grad is None for parameter in method.target_encoder.parameters())
    assert all(parameter.grad.abs().sum() > 0 for name, parameter in method.named_parameters() if name in trained)
    grouped = [id(p) for group in method.parameter_groups().values() for p in group]
    assert len(grouped) == len(trained)


def test_scale_and_bias_carry_no_weight_decay():
    method = make()
    assert method.no_weight_decay() == {"log_scale", "bias"} <= dict(method.named_parameters()).keys()


def test_the_scale_has_a_gradient_at_the_start():
    """It starts on its bound, where a hard clamp has none."""
    method = make()
    method(make_batch(), 0).loss.backward()
    assert method.log_scale.item() == pytest.approx(math.log(5)) and method.log_scale.grad.abs() > 1e-3


def test_the_scale_is_pulled_back_to_its_bound():
    method = make(max_scale=6.0)
    with torch.no_grad():
        method.log_scale.fill_(math.log(8.0))
    assert method(make_batch(), 0).measurements["scale"] == pytest.approx(6.0)
    method.after_fit_step(1)
    assert method.log_scale.item() == pytest.approx(math.log(6.0))


def test_evaluation_leaves_the_running_statistics_alone():
    """A reference system evaluates its target encoder in training mode."""
    method = make()
    train(method, 2)
    before = {name: buffer.clone() for name, buffer in method.named_buffers()}
    method.eval()
    images = make_batch().global_views[0]
    with torch.no_grad():
        together, alone = method.encode(images), method.encode(images[:1])
    assert all(torch.equal(buffer, before[name]) for name, buffer in method.named_buffers())
    torch.testing.assert_close(together[:1], alone)
    assert torch.equal(together, method.target_encoder(images))


def test_every_network_trains_in_training_mode():
    """A reference system measures its encoder in evaluation mode, and switches back only by luck."""
    method = make()
    assert all(module.training for module in method.modules())
    before = [buffer.clone() for buffer in method.target_encoder.buffers()]
    method(make_batch(), 0)
    assert not any(map(torch.equal, method.target_encoder.buffers(), before))


def test_training_lowers_the_loss():
    losses, _ = train(make(), 60)
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_a_requeue_changes_nothing():
    """Twelve steps, or five, a new process with the same state, and seven more: bitwise the same."""
    options = {"gamma_schedule_steps": 9, "ema_every_steps": 2, "ema_after_steps": 3, "steps": 12}
    whole = make(**options)
    losses, _ = train(whole, 12)

    first = make(**options)
    begun, first_optimizer = train(first, 5)
    second = make(**options, seed=1)
    second.load_state_dict(first.state_dict())
    second_optimizer = torch.optim.Adam([p for p in second.parameters() if p.requires_grad], lr=1e-2)
    second_optimizer.load_state_dict(first_optimizer.state_dict())
    continued, _ = train(second, 7, second_optimizer, start=5)
    assert torch.equal(torch.stack(losses), torch.stack(begun + continued))
    for (name, mine), theirs in zip(second.state_dict().items(), whole.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs), name


class NoWaiting(TorchDispatchMode):
    """Fails where the host would read a value off the device."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function.__name__ not in {
            "_local_scalar_dense.default",
            "is_nonzero.default",
            "equal.default",
            "nonzero.default",
            "masked_select.default",
        }, function
        return function(*args, **(kwargs or {}))


def test_a_training_step_never_waits_for_the_device():
    method = make(filter_threshold=0.1, filter_warmup_steps=1)
    with pytest.raises(AssertionError, match="_local_scalar_dense"), NoWaiting():
        torch.ones(()).item()
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
    batches = [make_batch(step) for step in range(4)]
    with NoWaiting():
        for step, batch in enumerate(batches):
            optimizer.zero_grad()
            method(batch, step).loss.backward()
            optimizer.step()
            method.after_fit_step(step + 1)


def train_on_ranks(group):
    """Three steps under DDP on this rank's rows of the batch, without batch norm."""
    torch.manual_seed(0)
    config = Config(projector_hidden=16, projector_width=4, projector_batch_norm=False)
    method = SCL(config, Encoder(batch_norm=False), Task(100, group)).double()
    model = DistributedDataParallel(method) if group.world > 1 else method
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
    losses = []
    for step in range(3):
        batch = make_batch(step, dtype=torch.float64)
        rows = slice(group.rank * 12 // group.world, (group.rank + 1) * 12 // group.world)
        own = Batch([view[rows] for view in batch.global_views], [view[rows] for view in batch.local_views])
        optimizer.zero_grad()
        output = model(own, step)
        output.loss.backward()
        optimizer.step()
        method.after_fit_step(step + 1)
        losses.append(group.all_reduce_sum(output.loss) / group.world)
    return torch.stack(losses), method.state_dict()


@pytest.mark.ddp
def test_two_ranks_train_like_one_process():
    losses, weights = train_on_ranks(Group())
    for rank_losses, rank_weights in run_ranks(2, train_on_ranks):
        torch.testing.assert_close(rank_losses, losses, rtol=1e-10, atol=0)
        for name, weight in weights.items():
            torch.testing.assert_close(rank_weights[name], weight, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {"gamma": -0.1},
        {"beta": 1.0},
        {"init_scale": 0.0},
        {"init_scale": 6.0},
        {"max_scale": -1.0},
        {"ema_every_steps": 0},
        {"gamma_schedule_steps": 0},
        {"filter_threshold": 1.0},
        {"filter_threshold": 0.05, "gamma": 0.0},
        {"temperature": 0.1},
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(ValidationError):
        Config(**options)


def test_half_precision_steps_are_finite():
    for dtype in (torch.bfloat16, torch.float16):
        method = make()
        with torch.autocast("cpu", dtype=dtype):
            output = method(make_batch(), 0)
        output.loss.backward()
        exact = make()(make_batch(), 0)
        assert output.loss.dtype == torch.float32
        torch.testing.assert_close(output.loss, exact.loss, rtol=1e-2, atol=0)
        assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)
