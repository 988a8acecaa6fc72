"""Every method on images: it keeps the contract, what a step collects survives, its probe reads only."""

from pathlib import Path

import pytest
import torch

from runner import checkpoint, lineage, named
from runner.batch import Batch
from runner.contract import check_method
from runner.errors import ConfigError
from runner.experiment import load_trial
from runner.group import Group
from runner.method import Task
from tests.experiments import fingerprint, prepare_run, train_here, train_on_ranks

SMALL = {"projector_widths": [16, 8]}
METHODS = {
    "barlow_twins": SMALL,
    "byol": {**SMALL, "predictor_hidden": 16, "online_probe": True},
    "dino": {"projector_widths": [16, 8, 32], "warmup_epochs": 2},
    "moco": {**SMALL, "queue_size": 64},
    "scl": {"projector_hidden": 16, "projector_width": 8},
    "relic": {"projector_hidden": 16, "projector_width": 8},
    "simclr": {**SMALL, "online_probe": True},
    "simsiam": {**SMALL, "predictor_hidden": 4},
    "supervised": {},
    "vicreg": SMALL,
    "wmse": {**SMALL, "eps": 0.01},
}
SHORT = {"train": {"steps": 8, "batch_size": 24}, "schedule": {"warmup_steps": 2}, "tracking": {"every_steps": 1}}
DATA = {"data": {"limit": 96}}


def prepare(folder, name, **groups):
    groups = {**SHORT, **DATA, **groups}
    groups["method"] = {"name": name, **METHODS[name], **groups.get("method", {})}
    return prepare_run(folder, without=("method",), **groups)


def make(name, **options):
    config = named.load("methods", name).Config(**{**METHODS[name], **options})
    encoder = named.load("encoders", "small_convnet")
    task = Task(steps=10, classes=("a", "b", "c"), steps_per_epoch=4)
    torch.manual_seed(0)
    return named.load("methods", name).build(config, encoder.build(encoder.Config(widths=(4, 8)), 1), task)


def make_batch(views=2):
    generator = torch.Generator().manual_seed(1)
    images = [torch.randn(6, 1, 16, 16, generator=generator) for _ in range(views)]
    return Batch(images, [], torch.tensor([0, 1, 2, 0, 1, 2]), torch.arange(6))


def test_every_method_on_images_is_tested():
    images = [name for name in named.names("methods") if named.kind_of("methods", name) == "images"]
    by_themselves = {path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")}
    assert set(images) - {"made_up"} - by_themselves <= set(METHODS) <= set(images)


@pytest.mark.ddp
@pytest.mark.parametrize("name", METHODS)
def test_it_keeps_the_contract(name):
    check_method({"name": name, **METHODS[name]})


@pytest.mark.ddp
@pytest.mark.parametrize("name", ["dino", "moco"])
def test_what_a_step_collects_is_collected_once_on_two_ranks(tmp_path, name):
    """DDP's reducer is warmed by passes without effect: neither queue nor centre may see them."""
    groups = {"resources": {"ranks": 2}, "train": {"steps": 80, "batch_size": 24}}
    whole, cut = (prepare(tmp_path / part, name, **groups) for part in ("whole", "cut"))
    assert train_on_ranks(whole, 2) == ["GO_ON"]
    assert train_on_ranks(cut, 2, {4: 1}) == ["REQUEUE", "GO_ON"]
    assert fingerprint(whole) == fingerprint(cut) is not None


@pytest.mark.parametrize("name", ["byol", "simclr"])
def test_the_online_probe_sends_no_gradient_into_the_encoder(name):
    method, plain = make(name), make(name, online_probe=False)
    plain.load_state_dict(method.state_dict(), strict=False)
    for one in (method, plain):
        one(make_batch(), 0).loss.backward()
    gradients = [[p.grad for p in one.encoder.parameters()] for one in (method, plain)]
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert method.probe.linear.weight.grad.abs().sum() > 0
    assert method.embed(make_batch(1))["scores"].shape == (6, 3)


@pytest.mark.parametrize("name", ["byol", "moco", "simsiam"])
def test_the_online_probe_changes_nothing_that_it_watches(tmp_path, name):
    """Neither the weights that the rest begins with, nor by how much its gradients are clipped."""
    found = []
    for number, probe in enumerate((True, False)):
        groups = {"method": {"online_probe": probe}, "optimizer": {"name": "sgd", "lr": 0.1}}
        run = prepare(tmp_path / str(number), name, train={**SHORT["train"], "max_grad_norm": 0.1}, **groups)
        train_here(run)
        weights = checkpoint.load(run, Group(), lineage.newest_valid(run)[0], []).shared["method"]
        found.append({key: value for key, value in weights.items() if not key.startswith("probe.")})
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(value, found[1][key]) for key, value in found[0].items())


@pytest.mark.parametrize("name", ["byol", "dino", "moco"])
def test_the_online_probe_is_scored_on_the_features_it_trains_on(name):
    method = make(name, online_probe=True).eval()
    with torch.no_grad():
        for parameter in method.teacher_encoder.parameters():
            parameter.add_(1)
    batch = make_batch(1)
    expected = method.probe.linear(method.encoder(batch.global_views[0]))
    torch.testing.assert_close(method.embed(batch)["scores"], expected)


@pytest.mark.parametrize("name", ["byol", "dino", "moco"])
def test_no_gradient_reaches_the_teacher(name):
    method = make(name).train()
    method(make_batch(), 0).loss.backward()
    assert all(p.grad is None for p in [*method.teacher_encoder.parameters(), *method.teacher_projector.parameters()])
    before = [p.clone() for p in method.teacher_encoder.parameters()]
    with torch.no_grad():
        for p in method.encoder.parameters():
            p.add_(1)
    method.after_fit_step(1)
    assert all(not torch.equal(a, b) for a, b in zip(before, method.teacher_encoder.parameters(), strict=True))


def test_dino_takes_samples_apart_not_the_first_two_of_a_batch():
    """A reference system takes the first two of the first tensor for the global views: they are samples."""
    method, batch = make("dino").train(), make_batch()
    method(batch, 0)
    assert method.assigned[0].shape == (6, 2, 32)


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"scl", "supervised"}))
def test_one_view_is_too_few(name):
    with pytest.raises(ConfigError, match="views"):
        make(name).compute_loss(make_batch(views=1), 0)


def test_moco_queues_the_keys_of_every_micro_batch(tmp_path):
    run = prepare(tmp_path, "moco", train={"steps": 2, "batch_size": 24, "accumulate": 2}, schedule={"warmup_steps": 0})
    train_here(run)
    assert load_trial(run.config).train.accumulate == 2
    method = make("moco").train()
    method.before_fit_step(0)
    for _ in range(2):
        method(make_batch(), 0)
    method.after_fit_step(1)
    assert int(method.queue.next) == 12
    method.before_fit_step(1)
    assert method.keys == []
