"""Maps and neighbours of a trained trial: what is drawn is what the features say."""

import re
import sys

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from runner import named
from runner.cli import run as cli
from runner.dataset import ImageSet, Records
from runner.embed.embedding_map import KINDS, choose_classes, draw_map, project, spread_out
from runner.embed.learned import Learned, Samples, describe, read_learned
from runner.embed.neighbours import choose_queries, draw_images, find_neighbours, pixels, table
from runner.errors import ConfigError
from runner.report import write_report
from runner.rundir import RunDir
from tests.experiments import prepare_run, train_here
from tests.trials import make_trial

CLASSES = ("cat", "dog", "$owl$")


def samples(count: int, name: str = "test", seed: int = 0, several: bool = False, records: bool = False) -> Samples:
    """Features near the axis of their class, so that all neighbours are right."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    features = F.normalize(torch.eye(3, 8)[labels] + 0.05 * torch.randn(count, 8, generator=draw), dim=1)
    classes = F.one_hot(labels, 3).float() if several else labels
    if records:
        return Samples(name, Records({"x": torch.zeros(count, 1)}, classes, CLASSES), features)
    images = torch.randint(0, 255, (count, 1, 6, 6), dtype=torch.uint8, generator=draw)
    return Samples(name, ImageSet(images, classes, CLASSES, (0.5,), (0.5,)), features)


def learned(tmp_path, **options) -> Learned:
    return Learned(
        RunDir(tmp_path / "exp" / "t"),
        7,
        samples(30, **options),
        samples(60, "train", 1, **options),
        "fashion_mnist_sample",
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> RunDir:
    run = prepare_run(
        tmp_path_factory.mktemp("embed"), train={"steps": 6}, data={"limit": 64}, evaluate={"probes": ["knn"]}
    )
    train_here(run)
    return run


def test_features_of_a_trial_are_those_of_its_newest_checkpoint(trained):
    found = read_learned(trained, samples=50)
    assert found.step == 6 and len(found.evaluated) == 50 and len(found.known) == 50
    torch.testing.assert_close(found.evaluated.features.norm(dim=1), torch.ones(50))
    assert torch.equal(found.evaluated.features, read_learned(trained, samples=50).evaluated.features)
    assert found.evaluated.label(0) in found.evaluated.data.classes
    with pytest.raises(ConfigError, match="has no checkpoint to take the weights from yet"):
        read_learned(prepare_run(trained.path.parents[2] / "fresh"), samples=10)


def test_the_verb_and_the_page_show_what_was_learned(trained, tmp_path, capsys):
    root = trained.path.parents[1]
    words = ["--method", "pca", "--samples", "40", "--queries", "3", "--neighbours", "2", "--root", str(root)]
    assert cli(["embed", trained.trial[:4], "--out", str(tmp_path / "out"), *words]) == 0
    files = [tmp_path / "out" / name for name in ("map.png", "map.svg", "neighbours.png")]
    assert capsys.readouterr().out.splitlines() == list(map(str, files)) and all(file.stat().st_size for file in files)
    page = tmp_path / "page.html"
    write_report(page, [trained.path.parent], 0.0, pictures=True)
    text = page.read_text()
    assert text.count('<img alt="') == 8 * 7 and "T-shirt/top" in text and "at step 6" in text
    make_trial(tmp_path, "a", "fresh")
    assert cli(["report", "fresh", "--pictures", "--root", str(tmp_path)]) == 2


def test_neighbours_are_those_of_a_naive_search(tmp_path):
    known = learned(tmp_path)
    sheet = find_neighbours(known, 5, 4)
    for query, neighbours in sheet.queries.items():
        cosine = (known.known.features @ known.evaluated.features[query]).numpy()
        assert [each.place for each in neighbours] == np.argsort(-cosine)[:4].tolist()
        assert [each.cosine for each in neighbours] == pytest.approx(sorted(cosine)[::-1][:4], abs=1e-6)
    assert sheet.share_right == 1.0 and sheet.share_by_chance == pytest.approx(1 / 3)
    assert "of the 4 nearest of all 30 samples of test 100.0% are of the same class, at random 33.3%" in sheet.title()


def test_a_sample_is_no_neighbour_of_itself(tmp_path):
    alone = samples(30)
    sheet = find_neighbours(Learned(RunDir(tmp_path), 1, alone, alone, ""), 30, 29)
    assert all(each.place != query for query, found in sheet.queries.items() for each in found)
    assert sheet.share_by_chance == sheet.share_right == pytest.approx(9 / 29)


def test_classes_that_were_never_trained_on_are_sought_among_themselves(tmp_path):
    found = learned(tmp_path)
    assert found.known.data.labels is not None
    found.known.data.labels.fill_(7)
    assert find_neighbours(found, 3, 2).learned.known is found.evaluated


def test_labels_may_be_several_or_none(tmp_path):
    sheet = find_neighbours(learned(tmp_path, several=True), 3, 2)
    assert sheet.share_right == 1.0 and sheet.share_by_chance == pytest.approx(1 / 3)
    bare = learned(tmp_path)
    for each in (bare.evaluated, bare.known):
        object.__setattr__(each.data, "labels", None)
    sheet = find_neighbours(bare, 3, 2)
    assert sheet.share_right is None and {each.is_right for found in sheet.queries.values() for each in found} == {None}
    assert len(draw_map(bare, "pca").axes[0].lines) == 1
    draw_images(sheet).canvas.draw()


def test_queries_are_one_of_each_class_in_turn():
    chosen = choose_queries(samples(30), 5)
    assert len(set(chosen)) == 5 and choose_queries(samples(30), 5) == chosen
    assert sorted(place % 3 for place in chosen) == [0, 0, 1, 2, 2]


@pytest.mark.parametrize("kind", ["tsne", "pca"])
def test_a_map_has_every_sample_in_the_colour_of_its_class(tmp_path, kind):
    axes = draw_map(learned(tmp_path), kind).axes[0]
    drawn = {line.get_label(): np.array(line.get_xydata()) for line in axes.lines}
    places = project(learned(tmp_path).evaluated.features.numpy(), kind)
    assert drawn.keys() == {"cat", "dog", r"\$owl\$"}, "a pair of dollars is no formula"
    np.testing.assert_array_equal(drawn["dog"], places[1::3])
    assert len({line.get_color() for line in axes.lines}) == 3
    middles = np.stack([places[label::3].mean(0) for label in range(3)])
    nearest = np.linalg.norm(places[:, None] - middles, axis=2).argmin(1)
    assert (nearest == np.arange(30) % 3).all(), "what is apart in the features is apart on the map"


def test_a_map_refuses_in_words(monkeypatch):
    with pytest.raises(ConfigError, match="needs at least 4 samples; there are 3"):
        project(np.zeros((3, 8), np.float32), "pca")
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ConfigError, match="--method umap: needs umap"):
        project(np.zeros((9, 8), np.float32), KINDS[2])


def test_of_many_classes_the_largest_have_colours():
    labels = [f"c{number:02}" for number in range(20) for _ in range(number + 1)]
    assert choose_classes(labels) == [f"c{number:02}" for number in range(7, 20)]
    assert choose_classes(["b", "a", ""]) == ["a", "b"]


def test_names_do_not_lie_on_each_other():
    places = [np.array([0.5, 0.5])] * 3 + [np.array([0.0, 0.5])]
    found = spread_out(places, np.ones(2))
    assert found[3].tolist() == [0.0, 0.5] and sorted(place[1] for place in found[:3]) == pytest.approx(
        [0.38, 0.44, 0.5]
    )


def test_records_are_told_in_words_and_images_shown_as_they_are(tmp_path):
    found = learned(tmp_path, records=True)
    (query, near, cosine, right, *labels), *_ = table(find_neighbours(found, 2, 1))
    assert query.startswith("sample ") and near.startswith("sample ") and right == "yes" and labels[0] == labels[1]
    assert 0.9 < float(cosine) <= 1
    images = samples(4)
    assert (pixels(images.data, 2) == images.data.images[2, 0].numpy()).all()


@pytest.mark.parametrize(
    ("source", "options", "told"),
    [
        ("protein_localisation", {"limit": 5}, r"protein 0: [A-Z]{24}"),
        ("code_triples", {"limit": 5, "test_packages": ["zlib"], "tokenizer": {"name": "bytes"}}, r"\w+ \w+, O\d: \w+"),
    ],
)
def test_records_of_a_data_set_are_told_by_it(source, options, told):
    module = named.load("data", source)
    assert re.match(told, describe(source, module.build(module.Config(**options), "train"), 0))
