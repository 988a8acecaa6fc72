import json

import numpy as np
import pytest
import torch

from runner.data import food101
from runner.errors import DataError
from tests.data.jpegs import read_pixels, write_jpeg

CLASSES = ["apple_pie", "baby_back_ribs"]
IDS = {"train": {"apple_pie": [7, 3], "baby_back_ribs": [5]}, "test": {"apple_pie": [9], "baby_back_ribs": [1, 2]}}


def write_tree(root):
    folder = root / food101.FOLDER
    (folder / "meta").mkdir(parents=True)
    (folder / "meta" / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    for split, ids in IDS.items():
        # the official files are not sorted by class
        listed = {name: [f"{name}/{number}" for number in ids[name]] for name in reversed(CLASSES)}
        (folder / "meta" / f"{split}.json").write_text(json.dumps(listed))
        for names in listed.values():
            for name in names:
                write_jpeg(folder / "images" / f"{name}.jpg", (24, 16), seed=int(name.rpartition("/")[2]))
    return folder


def build(root, split="train", size=16, **options):
    return food101.build(food101.Config(root=str(root), size=size, **options), split)


@pytest.mark.parametrize("split", ["train", "test"])
def test_images_come_class_after_class_in_the_order_of_the_list(tmp_path, split):
    folder = write_tree(tmp_path)
    images = build(tmp_path, split)
    paths = [folder / "images" / name / f"{number}.jpg" for name in CLASSES for number in IDS[split][name]]
    # 24 x 16: the middle 16 columns
    assert np.array_equal(images.images.numpy(), np.stack([read_pixels(path)[:, :, 4:20] for path in paths]))
    assert images.labels.tolist() == [label for label, name in enumerate(CLASSES) for _ in IDS[split][name]]
    assert images.images.dtype == torch.uint8 and images.labels.dtype == torch.int64
    assert images.classes == tuple(CLASSES)


def test_size_and_choice(tmp_path):
    write_tree(tmp_path)
    assert food101.Config().size == 192
    assert build(tmp_path, size=8).images.shape == (3, 3, 8, 8)
    assert build(tmp_path, per_class=1).labels.tolist() == [0, 1]
    assert build(tmp_path, limit=2).labels.tolist() == [0, 0]


@pytest.mark.parametrize(("name", "split"), [("meta/classes.txt", "train"), ("meta/test.json", "test")])
def test_what_is_missing_is_named_with_its_folder_and_a_remedy(tmp_path, name, split):
    folder = write_tree(tmp_path)
    (folder / name).unlink()
    message = rf"no {name} in {folder}; run: curl -L .* tar xz -C {tmp_path}"
    with pytest.raises(DataError, match=message) as caught:
        build(tmp_path, split)
    assert "\n" not in str(caught.value)


def test_a_missing_data_set_can_be_downloaded(tmp_path):
    with pytest.raises(DataError, match=rf"no meta/classes.txt in {tmp_path}/.*; set data.download=true or run: curl"):
        build(tmp_path)


def test_a_listed_image_that_is_missing_is_named(tmp_path):
    folder = write_tree(tmp_path)
    (folder / "images" / "apple_pie" / "3.jpg").unlink()
    build(tmp_path, "test")
    with pytest.raises(DataError, match=rf"no 3.jpg in {folder}/images/apple_pie, but it is listed"):
        build(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "does not map classes to lists"),
        ("[1]", "does not map classes to lists"),
        ('{"apple_pie": 3}', "does not map classes to lists"),
        ('{"apple_pie": []}', "has no class 'baby_back_ribs'"),
    ],
)
def test_a_strange_list_is_named(tmp_path, text, message):
    path = write_tree(tmp_path) / "meta" / "train.json"
    path.write_text(text)
    with pytest.raises(DataError, match=f"{path}: {message}"):
        build(tmp_path)
