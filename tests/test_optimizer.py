"""The optimizer against torch's plain ones, its groups, and what the fused kernels must not change."""

import copy

import pytest
import torch
from torch import nn

from runner.config import OptimizerConfig
from runner.errors import ConfigError
from runner.lars import LARS
from runner.method import Method
from runner.optimizer import build_optimizer, clip_gradients, set_learning_rate


class Toy(Method):
    """An encoder, a head, and a temperature that must not decay."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Linear(5, 4)
        self.head = nn.Linear(4, 3)
        self.log_temperature = nn.Parameter(torch.tensor(1.5))
        self.target = nn.Linear(4, 3).requires_grad_(False)

    def no_weight_decay(self):
        return {"log_temperature"}


def config(**options):
    return OptimizerConfig.model_validate({"lr": 0.1, "weight_decay": 0.2, **options})


def fill_gradients(method, step, scale=1.0):
    generator = torch.Generator().manual_seed(step)
    for parameter in method.parameters():
        if parameter.requires_grad:
            parameter.grad = scale * torch.randn(parameter.shape, generator=generator)


PLAIN = {
    "adamw": (torch.optim.AdamW, {"betas": (0.8, 0.99)}),
    "adam": (torch.optim.Adam, {"betas": (0.8, 0.99)}),
    "sgd": (torch.optim.SGD, {"momentum": 0.7, "nesterov": True}),
}


@pytest.mark.parametrize("name", PLAIN)
def test_equals_torch_without_fused_kernels(name):
    """Five steps under a schedule, against one plain optimizer a group with its own rate and decay."""
    kind, options = PLAIN[name]
    mine, plain = Toy(), Toy()
    optimizer = build_optimizer(mine, config(name=name, groups={"head": {"lr": 0.01, "weight_decay": 0.5}}, **options))
    references = [
        kind(parameters, lr=lr, weight_decay=decay, foreach=False, **options)
        for parameters, lr, decay in [
            (plain.encoder.parameters(), 0.1, 0.2),
            (plain.head.parameters(), 0.01, 0.5),
            ([plain.log_temperature], 0.01, 0.0),
        ]
    ]
    base = [reference.param_groups[0]["lr"] for reference in references]
    for step in range(5):
        fill_gradients(mine, step)
        fill_gradients(plain, step)
        set_learning_rate(optimizer, 1 / (1 + step))
        optimizer.step()
        for reference, lr in zip(references, base, strict=True):
            reference.param_groups[0]["lr"] = lr / (1 + step)
            reference.step()
    for (label, value), expected in zip(mine.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6, msg=lambda m, n=label: f"{n}: {m}")


def lars_config(**options):
    return config(name="lars", momentum=0.7, nesterov=True, **options)


def test_lars_adapts_matrices_and_leaves_biases_norms_and_scalars_alone():
    """Of the same rate, the groups of encoder and head become one each, with and without adaptation."""
    method = Toy()
    method.head = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    optimizer = build_optimizer(method, lars_config())
    assert isinstance(optimizer, LARS)
    names = {parameter: name for name, parameter in method.named_parameters()}
    found = {
        group["name"]: (group["adapt"], group["weight_decay"], sorted(names[p] for p in group["params"]))
        for group in optimizer.param_groups
    }
    assert found == {
        "encoder+head": (True, 0.2, ["encoder.weight", "head.0.weight"]),
        "encoder/no_decay+head/no_decay": (
            False,
            0.0,
            ["encoder.bias", "head.0.bias", "head.1.bias", "head.1.weight", "log_temperature"],
        ),
    }
    assert all((group["momentum"], group["nesterov"]) == (0.7, True) for group in optimizer.param_groups)


def test_lars_keeps_what_it_adapts_apart_also_without_decay():
    method = Toy()
    groups = build_optimizer(method, lars_config(weight_decay=0.0)).param_groups
    assert [(group["name"], group["adapt"]) for group in groups] == [
        ("encoder+head", True),
        ("encoder/no_decay+head/no_decay", False),
    ]
    set_learning_rate(optimizer := build_optimizer(method, lars_config(groups={"head": {"lr": 0.03}})), 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.05, 0.015, 0.015]


def test_groups_carry_their_names_rates_and_decay():
    optimizer = build_optimizer(Toy(), config(groups={"head": {"lr": 0.01}, "encoder": {"weight_decay": 0.0}}))
    found = {group["name"]: (group["base_lr"], group["weight_decay"]) for group in optimizer.param_groups}
    assert found == {"encoder": (0.1, 0.0), "head": (0.01, 0.2), "head/no_decay": (0.01, 0.0)}
    sizes = {group["name"]: sum(p.numel() for p in group["params"]) for group in optimizer.param_groups}
    assert sizes == {"encoder": 24, "head": 15, "head/no_decay": 1}, "the frozen target is left out"


def test_a_temperature_without_gradient_does_not_decay():
    """One reference system decays it, and once it is clamped nothing but that decay moves it."""
    method = Toy()
    optimizer = build_optimizer(method, config())
    for parameter in method.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = copy.deepcopy(method.state_dict())
    optimizer.step()
    assert torch.equal(method.log_temperature, before["log_temperature"])
    assert not torch.equal(method.head.weight, before["head.weight"])


def test_set_learning_rate_multiplies_the_base_and_is_exact_again_at_one():
    optimizer = build_optimizer(Toy(), config(groups={"head": {"lr": 0.03}}))
    set_learning_rate(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.015, 0.015]
    set_learning_rate(optimizer, 1.0)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.03, 0.03]


def test_unknown_group_names_the_groups_there_are():
    with pytest.raises(ConfigError, match=r"optimizer\.groups\.trunk: unknown .* there is encoder, head"):
        build_optimizer(Toy(), config(groups={"trunk": {"lr": 1.0}}))


def test_a_group_without_parameters_counts_as_unknown():
    method = Toy()
    method.head.requires_grad_(False)
    method.log_temperature.requires_grad_(False)
    with pytest.raises(ConfigError, match=r"optimizer\.groups\.head: unknown .* there is encoder"):
        build_optimizer(method, config(groups={"head": {"lr": 1.0}}))


def test_a_method_that_forgets_parameters_is_found():
    class Forgetful(Toy):
        def parameter_groups(self):
            return {"encoder": list(self.encoder.parameters())}

    class Misspelt(Toy):
        def no_weight_decay(self):
            return {"temperature"}

    with pytest.raises(AssertionError, match=r"leaves out log_temperature, head\.weight, head\.bias"):
        build_optimizer(Forgetful(), config())
    with pytest.raises(AssertionError, match="temperature, which is no parameter"):
        build_optimizer(Misspelt(), config())


@pytest.mark.parametrize("name", PLAIN)
def test_two_runs_and_a_resumed_run_agree_bitwise(name):
    """Also with another number of threads and with state in newly allocated memory, as after a requeue."""

    class Wide(Toy):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Linear(501, 203)

    def run(interrupt_after=None, threads=1):
        torch.set_num_threads(threads)
        try:
            method = Wide()
            optimizer = build_optimizer(method, config(name=name))
            for step in range(6):
                if step == interrupt_after:
                    weights, state = copy.deepcopy((method.state_dict(), optimizer.state_dict()))
                    method = Wide()
                    method.load_state_dict(weights)
                    optimizer = build_optimizer(method, config(name=name))
                    optimizer.load_state_dict(state)
                fill_gradients(method, step)
                set_learning_rate(optimizer, 1 / (1 + step))
                optimizer.step()
        finally:
            torch.set_num_threads(1)
        return method.state_dict()

    reference = run()
    for other in (run(), run(interrupt_after=3), run(threads=2)):
        assert all(torch.equal(value, other[label]) for label, value in reference.items())


@pytest.mark.parametrize("name", PLAIN)
def test_a_parameter_may_get_its_first_gradient_late(name):
    """Curricula switch parts of a model on later; torch's fused SGD fails on that."""
    method = Toy()
    optimizer = build_optimizer(method, config(name=name))
    before = method.head.weight.detach().clone()
    for step in range(4):
        fill_gradients(method, step)
        if step < 2:
            method.head.weight.grad = None
        optimizer.step()
        assert torch.equal(method.head.weight, before) == (step < 2)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_clip_gradients_bounds_the_joint_norm_and_gives_the_norm_before(scale):
    method = Toy()
    optimizer = build_optimizer(method, config())
    fill_gradients(method, 0, scale)
    before = torch.cat([p.grad.flatten() for p in method.parameters() if p.grad is not None])
    norm = clip_gradients(optimizer, 1.0)
    after = torch.cat([p.grad.flatten() for p in method.parameters() if p.grad is not None])
    torch.testing.assert_close(norm, before.norm())
    torch.testing.assert_close(after, before * min(1.0, 1.0 / before.norm().item()), rtol=1e-5, atol=0.0)


def test_clip_gradients_reports_an_overflow_instead_of_raising():
    method = Toy()
    optimizer = build_optimizer(method, config())
    fill_gradients(method, 0)
    method.head.bias.grad[0] = torch.inf
    assert clip_gradients(optimizer, 1.0).item() == float("inf")
