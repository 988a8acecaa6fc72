"""What is evaluated: the test part, a held-out part, more data sets, or weights that nothing trains."""

import re
from dataclasses import replace

import pytest
import torch

from runner import named
from runner.dataset import ImageSet, Records
from runner.decoded import map_pixels
from runner.errors import ConfigError, DataError
from runner.evaluate import check_probes
from runner.experiment import load_experiment, load_trial
from runner.export import export
from runner.features import FrozenFeatures
from runner.files import read_json, read_rows
from runner.group import Group
from runner.loader import fetch, hold_out, plain_batch, train_batch
from runner.method import Method
from runner.named import resolve_trials
from runner.sweep import trials
from runner.trial_data import build_data, check_alike, check_whole
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


def test_pixels_that_are_not_normalised_in_training_are_not_in_evaluation(tmp_path):
    """With training views that change nothing, evaluation sees what training saw."""
    still = {
        "global_scale": [1.0, 1.0],
        "aspect_ratio": [1.0, 1.0],
        "flip_probability": 0.0,
        "jitter": {"probability": 0.0},
        "greyscale_probability": 0.0,
        "blur": {"probability": 0.0},
        "solarize": {"probability": 0.0},
    }
    for number, normalise in enumerate((True, False)):
        run = prepare_run(tmp_path / str(number), views={**still, "normalise": normalise}, evaluate={"probes": ["knn"]})
        trial = load_trial(run.config)
        data = build_data(trial, named.resolve_trial(trial), torch.device("cpu"))
        ids = torch.arange(7)
        seen = train_batch(data.train, fetch(data.train, ids, torch.device("cpu")), trial.views, 0, 0).global_views[0]
        torch.testing.assert_close(seen, plain_batch(data.train, ids, torch.device("cpu")).global_views[0])
        tested = plain_batch(data.tests["test"], ids, torch.device("cpu")).global_views[0]
        assert (tested.min() < 0) == normalise


def test_holding_out_copies_no_pixels(tmp_path):
    """A set that is mapped from a file, because it is larger than the memory, stays there."""
    (tmp_path / "pixels").write_bytes(bytes(range(40)) * 4)
    images = map_pixels(tmp_path / "pixels", (40, 1, 2, 2))
    data = ImageSet(images, torch.arange(40), ("a",), (0.5,), (0.5,))
    for part in hold_out(data, 0.25, seed=3):
        assert part.images.data_ptr() == images.data_ptr()
        copied = data.subset(part.labels)
        for ids in (torch.tensor([3, 0]), torch.arange(len(part))):
            assert torch.equal(part.take(ids)["images"], copied.take(ids)["images"])


def test_what_is_held_out_is_not_trained_on_and_nothing_is_lost():
    images = torch.arange(40, dtype=torch.uint8)[:, None, None, None].expand(40, 1, 2, 2)
    data = ImageSet(images, torch.arange(40), ("a",), (0.5,), (0.5,))
    train, held_out = hold_out(data, 0.25, seed=3)
    assert len(held_out) == 10 and not set(train.labels.tolist()) & set(held_out.labels.tolist())
    assert sorted([*train.labels.tolist(), *held_out.labels.tolist()]) == list(range(40))
    for part in (train, held_out):
        pixels = part.take(torch.arange(len(part)))["images"]
        assert torch.equal(pixels[:, 0, 0, 0], part.labels.to(torch.uint8))
        assert torch.equal(part.to(torch.device("cpu")).images, pixels) and part.nbytes == pixels.nbytes
        some = part.subset(torch.tensor([4, 1]))
        assert torch.equal(some.images, pixels[[4, 1]]) and torch.equal(some.labels, part.labels[[4, 1]])
        assert torch.equal(part.part(torch.tensor([4, 1])).take(torch.tensor([1]))["images"], pixels[[1]])
    assert not torch.equal(held_out.labels, hold_out(data, 0.25, seed=4)[1].labels)


@pytest.mark.ddp
@pytest.mark.parametrize("world", [1, 2])
def test_without_a_step_weights_are_evaluated_only(tmp_path, world):
    """One reference system crashes without training data."""
    trained = prepare_run(tmp_path / "trained", evaluate={"probes": ["knn"]}, **SHORT)
    train_here(trained)
    export(trained, tmp_path / "weights.pt")
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
        (
            "evaluate={probes: [knn], data: {a.b: {name: cifar10}}}",
            'evaluate.data: "a.b" is not allowed; must have no dot',
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


CODE = {
    "method": {"name": "contrabin"},
    "encoder": {"name": "bag_of_tokens"},
    "data": {"name": "code_triples", "test_packages": ["libpng"]},
    "train": {"steps": 2, "batch_size": 8},
    "optimizer": {"name": "adamw", "lr": 1e-3},
    "schedule": {"warmup_steps": 0},
    "without": ("method", "encoder", "data", "views", "optimizer"),
}
PROTEINS = CODE | {
    "method": {"name": "supcon_hard"},
    "encoder": {"name": "kmer"},
    "data": {"name": "protein_localisation"},
}


@pytest.mark.parametrize(
    ("groups", "probe", "message"),
    [
        ({}, "accuracy", "[accuracy]: needs a method that predicts classes, and this one does not; choose linear or"),
        ({}, {"name": "provenance"}, '[provenance].heads: "level" is not allowed; the data set has no texts'),
        (PROTEINS, "knn", "[knn]: needs one label a sample, and these have several; choose multilabel or class_calls"),
        (PROTEINS, "linear", "[linear]: needs one label a sample, and these have several"),
        (PROTEINS, "retrieval", "[retrieval].label: is missing: these samples have several of their own"),
        (
            CODE,
            {"name": "retrieval", "pairs": [["coment", "binary"]]},
            '[retrieval].pairs: "coment" is not allowed; the method gives features, source, binary, comment',
        ),
        (
            CODE,
            {"name": "retrieval", "label": "pakage"},
            '[retrieval].label: "pakage" is not allowed; the data set has name, comment, function, package, level',
        ),
        (CODE, {"name": "provenance", "heads": ["linker"]}, '[provenance].heads: "linker" is not allowed; the data'),
        (CODE, {"name": "name_recovery", "text": "names"}, '[name_recovery].text: "names" is not allowed; the data'),
        (CODE, {"name": "summarization", "query": "ir"}, '[summarization].query: "ir" is not allowed; the method'),
        (CODE, "lidar", '[lidar]: looks at images, and data "code_triples" has none'),
        (CODE, {"name": "class_calls", "space": "projections"}, '[class_calls].space: "projections" is not allowed'),
    ],
)
def test_a_probe_that_cannot_work_is_refused_before_anything_is_written(tmp_path, groups, probe, message):
    path = write_experiment(tmp_path, **groups, evaluate={"probes": [probe]})
    experiment = load_experiment(path)
    with pytest.raises(ConfigError) as caught:
        resolve_trials(trials(experiment), experiment.document)
    line = next(n for n, text in enumerate(path.read_text().splitlines(), 1) if text == "  probes:")
    assert str(caught.value).startswith(f"{path}:{line}: evaluate.probes{message}"), caught.value


def test_a_probe_that_cannot_work_is_refused_once_data_and_method_are_there(tmp_path):
    """What only the samples tell: each would end at the first evaluation, with the training done."""
    probe = {"name": "retrieval", "pairs": [["comment", "comment"]]}
    refused = {
        r"\[retrieval\]\.pairs: \[comment, comment\] is not allowed: no label of the \d+ samples is found twice": probe,
        r"\[provenance\]\.heads: \"level\" is not allowed: all \d+ training samples have the same": "provenance",
    }
    data = {**CODE["data"], "binaries": ["O0", "O2"], "limit": 40}
    copies = r"\[retrieval\]\.pairs: \[source, source\] is not allowed: all samples with one label have the same source"
    settings = [(message, probe, CODE) for message, probe in refused.items()]
    settings.append((copies, probe | {"pairs": [["binary", "binary"], ["source", "source"]]}, CODE | {"data": data}))
    for number, (message, probe, groups) in enumerate(settings):
        run = prepare_run(tmp_path / str(number), **groups, evaluate={"probes": [probe]})
        with pytest.raises(ConfigError, match=message):
            train_here(run)
        assert not run.metrics.exists() or read_rows(run.metrics) == []


def test_a_head_that_normalises_one_sample_by_itself_is_refused(tmp_path):
    for name in ("byol", "simsiam", "moco", "dino"):
        path = write_experiment(tmp_path, without=("method",), method={"name": name}, train={"batch_size": 1})
        experiment = load_experiment(path)
        with pytest.raises(ConfigError, match=r"train\.batch_size: 1 is not allowed; batch norm takes two samples"):
            resolve_trials(trials(experiment), experiment.document)


@pytest.mark.parametrize(
    ("train", "method", "message"),
    [
        (
            "batch_size: 16",
            "projector_widths: [64, 32]",
            "train.batch_size: 16 is not allowed; whitening 32 dimensions",
        ),
        (
            "batch_size: 64",
            "sub_batch: 16, projector_widths: [64, 32]",
            "method.sub_batch: 16 is not allowed; whitening 32 dimensions takes more than 32 rows, or method.eps above",
        ),
    ],
)
def test_whitening_of_too_few_rows_names_what_makes_them_few(tmp_path, train, method, message):
    path = write_experiment(tmp_path)
    experiment = load_experiment(path, [f"method={{name: wmse, {method}}}", f"train={{steps: 4, {train}}}"])
    with pytest.raises(ConfigError) as caught:
        resolve_trials(trials(experiment), experiment.document)
    assert message in str(caught.value)


def test_a_class_that_no_sample_has_keeps_its_place():
    labels = torch.tensor([0, 2, 0, 2])
    data = ImageSet(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), labels, ("a", "b", "c", "d"), (0.5,), (0.5,))
    features = FrozenFeatures(torch.randn(4, 3), labels, {"scores": torch.randn(4, 4)}, data)
    multilabel = named.load("evaluation", "multilabel")
    found = multilabel.run(multilabel.Config(), features, features, torch.device("cpu"), 0)
    assert {"auroc_a", "auroc_c"} <= set(found) and not {"auroc_0", "auroc_2"} & set(found)


def test_a_plug_in_is_named_by_the_key_that_selected_it(tmp_path):
    method = {"name": "contrabin", "freeze_anchor": False, "binary_encoder": {"name": "kmer"}}
    run = prepare_run(tmp_path / "encoder", **{**CODE, "method": method})
    with pytest.raises(ConfigError, match=r"^method\.binary_encoder\.name: kmer reads the"):
        train_here(run)
    more = {"more": {"name": "protein_localisation", "test": [7]}}
    run = prepare_run(tmp_path / "data", **PROTEINS, evaluate={"probes": ["multilabel"], "data": more})
    with pytest.raises(ConfigError, match=r"^evaluate\.data\.more\.test: \[7\] is not allowed; .* no partition 7"):
        train_here(run)


def test_the_labels_of_each_data_set_are_checked():
    class Plain(Method):
        def encode(self, images_BCHW):
            return images_BCHW.flatten(1).float()

    images, labels = torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])
    known = ImageSet(images, labels, ("a", "b"), (0.5,), (0.5,))
    hidden, one = replace(known, labels=None), replace(known, labels=torch.zeros(4, dtype=torch.int64))
    probes = {"knn": named.load("evaluation", "knn").Config()}
    check_probes(Plain(), probes, known, {"test": known, "more": known}, Group())
    for train, test, more, message in (
        (hidden, known, known, r"\[knn\]: needs one label a sample, and these have none$"),
        (known, hidden, known, r"\[knn\]: needs one label a sample, and these have none$"),
        (known, known, hidden, r"\[knn\]: needs one label a sample, and these have none \(evaluate.data.more\)$"),
        (one, known, known, r"\[knn\]: needs at least 2 classes to train on; 4 samples hold fewer$"),
        (
            known,
            known,
            replace(known, classes=("b", "a")),
            r'\[knn\]: compares labels, and label 0 is "b" here and "a" of the training samples; .*more\)$',
        ),
        (known, replace(known, classes=("a", "b", "c")), known, r"these have 3 classes, the training samples 2;"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_probes(Plain(), probes, train, {"test": test, "more": more}, Group())


def test_a_part_of_which_nothing_can_be_made_is_told_in_one_line():
    images = torch.zeros(4, 3, 2, 2, dtype=torch.uint8)
    whole = ImageSet(images, None, (), (0.5,) * 3, (0.5,) * 3)
    check_whole("mine", "test", whole)
    with pytest.raises(DataError, match=r"^data mine: its test part has no samples$"):
        check_whole("mine", "test", whole.subset(torch.arange(0)))
    with pytest.raises(DataError, match=r"its test part have 3 channels, and mean has 1 values and std 1$"):
        check_whole("mine", "test", replace(whole, mean=(0.5,), std=(0.5,)))


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
