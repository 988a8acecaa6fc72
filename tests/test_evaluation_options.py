"""What is evaluated: the test part, a held-out part, more data sets, or weights that nothing trains."""

import re

import pytest
import torch

from runner import checkpoint
from runner.config import load_experiment
from runner.dataset import ImageSet, Records
from runner.errors import ConfigError
from runner.loader import hold_out
from runner.named import resolve_trials
from runner.run import check_alike
from runner.rundir import read_json, read_rows
from runner.sweep import trials
from tests.experiments import fingerprint, prepare_run, run_cli, train_here, train_on_ranks, write_experiment

SHORT = {"train": {"steps": 6}, "schedule": {"warmup_steps": 0}, "data": {"limit": 128}, "tracking": {"every_steps": 2}}


def metrics(run):
    return read_json(run.result)["metrics"]


def test_each_data_set_is_evaluated_under_its_name(tmp_path):
    more = {"few": {"name": "fashion_mnist_sample", "limit": 32}}
    probes = ["knn", {"name": "linear", "C": 1.0}, "rankme", {"name": "lidar", "samples": 8, "views": 3}]
    run = prepare_run(tmp_path, evaluate={"probes": probes, "data": more}, **SHORT)
    train_here(run)
    names = {f"{probe}_{metric}" for probe in ("knn", "linear") for metric in ("top1", "top5")}
    names |= {"rankme_rankme", "lidar_lidar"}
    found = {name for name in metrics(run) if not name.startswith("train/")}
    assert found == {f"{data}/{name}" for data in ("test", "few") for name in names}
    assert 1 <= metrics(run)["test/rankme_rankme"] <= 16.01 and 1 <= metrics(run)["few/lidar_lidar"] <= 8


def test_options_of_a_probe_act(tmp_path):
    found = []
    for k in (1, 100):
        run = prepare_run(tmp_path / str(k), evaluate={"probes": [{"name": "knn", "k": k}]}, **SHORT)
        train_here(run)
        found.append(metrics(run)["test/knn_top1"])
    assert found[0] != found[1]


def test_a_validation_part_is_held_out_of_the_training(tmp_path):
    run = prepare_run(tmp_path, evaluate={"probes": ["knn"], "on": "validation", "validation_share": 0.25}, **SHORT)
    train_here(run)
    assert "validation/knn_top1" in metrics(run) and "test/knn_top1" not in metrics(run)


def test_what_is_held_out_is_not_trained_on_and_nothing_is_lost():
    images = torch.arange(40, dtype=torch.uint8)[:, None, None, None].expand(40, 1, 2, 2)
    data = ImageSet(images, torch.arange(40), ("a",), (0.5,), (0.5,))
    train, held_out = hold_out(data, 0.25, seed=3)
    assert len(held_out) == 10 and not set(train.labels.tolist()) & set(held_out.labels.tolist())
    assert sorted([*train.labels.tolist(), *held_out.labels.tolist()]) == list(range(40))
    assert torch.equal(train.images[:, 0, 0, 0], train.labels.to(torch.uint8))
    assert not torch.equal(held_out.labels, hold_out(data, 0.25, seed=4)[1].labels)


@pytest.mark.ddp
@pytest.mark.parametrize("world", [1, 2])
def test_without_a_step_weights_are_evaluated_only(tmp_path, world):
    """One reference system crashes without training data."""
    trained = prepare_run(tmp_path / "trained", evaluate={"probes": ["knn"]}, **SHORT)
    train_here(trained)
    checkpoint.export(trained, tmp_path / "weights.pt")
    groups = {**SHORT, "train": {"steps": 0}, "init_from": str(tmp_path / "weights.pt")}
    run = prepare_run(tmp_path / "only", evaluate={"probes": ["knn"]}, resources={"ranks": world}, **groups)
    assert train_on_ranks(run, world) == ["GO_ON"]
    assert metrics(run) == {
        "test/knn_top1": metrics(trained)["test/knn_top1"],
        "test/knn_top5": pytest.approx(0.9, abs=0.3),
    }
    assert [row["step"] for row in read_rows(run.metrics)] == [0] and fingerprint(run) is not None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.steps=0", "train.steps: 0 trains nothing, so init_from must name the weights to evaluate"),
        ("train.steps=0 init_from=w.pt", "evaluate.probes: is empty and train.steps is 0: nothing would be done"),
        ("evaluate.on=validation", "evaluate.probes: is empty, so evaluate.on and evaluate.data would do nothing"),
        ("method={name: simclr, projector_widths: [64, 0]}", "0 is not allowed; must be at least 1"),
        ("evaluate.probes=[knn, knn]", "evaluate.probes: knn is listed twice; list it once"),
        ("evaluate.probes=[{name: knn, kk: 3}]", 'evaluate.probes.kk: unknown key; did you mean "k"?'),
        (
            "evaluate={probes: [knn], data: {test: {name: cifar10}}}",
            "evaluate.data.test: this name is taken; choose another",
        ),
        (
            "evaluate={probes: [knn], data: {a: {name: cifar11}}}",
            'evaluate.data.a.name: "cifar11" is not allowed; did you mean "cifar10"?',
        ),
        ("evaluate.validation_share=0.2", "evaluate.validation_share: 0.2 needs on: validation"),
        ("method={name: simclr} views.global_views=3", '3 is not allowed; method "simclr" compares 2'),
        ("method={name: dino} views.global_views=1", '1 is not allowed; method "dino" compares at least 2'),
        ("method={name: byol} views.local_views=2", 'method "byol" looks at global views only'),
        ("data={name: protein_localisation}", '"scl" takes images, and data "protein_localisation" gives records'),
        ("encoder={name: kmer}", 'encoder.name: "kmer" takes records, and data "fashion_mnist_sample" gives images'),
    ],
)
def test_what_does_not_go_together_is_told_in_one_line(tmp_path, override, message):
    path = write_experiment(tmp_path)
    with pytest.raises(ConfigError) as caught:
        experiment = load_experiment(path, re.split(r" (?=views|init_from)", override))
        resolve_trials(trials(experiment), experiment.document)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_data_that_the_model_cannot_read_are_refused_before_the_training():
    grey = ImageSet(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), None, (), (0.5,), (0.5,))
    colour = ImageSet(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), None, (), (0.5,) * 3, (0.5,) * 3)
    text, other = (Records({name: torch.ones(4, 2)}, None, (), 9) for name in ("text", "sequence"))
    larger = Records({"text": torch.ones(4, 2)}, None, (), 10)
    with pytest.raises(ConfigError, match=r"evaluate\.data\.few: has 3 channels, and the trial's data have 1"):
        check_alike("few", colour, grey)
    with pytest.raises(ConfigError, match=r"evaluate\.data\.few: has no column text"):
        check_alike("few", other, text)
    with pytest.raises(ConfigError, match=r"evaluate\.data\.few: has 10 token ids, and the trial's data have 9"):
        check_alike("few", larger, text)
    check_alike("few", text, text)


def test_debug_refuses_a_mistake_in_a_plug_in_before_it_writes_anything(tmp_path):
    done = run_cli("debug", write_experiment(tmp_path), "method.name=scll", "--root", tmp_path / "runs")
    assert done.returncode == 2 and done.stdout == "" and not (tmp_path / "runs").exists()
    assert done.stderr == 'runner: override method.name=scll: method.name: "scll" is not allowed; did you mean "scl"?\n'
