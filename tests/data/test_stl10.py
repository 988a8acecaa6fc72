import numpy as np
import pytest
import torch

from runner.data import stl10
from runner.errors import DataError
from runner.views import make_views
from runner.views_config import ViewsConfig

CLASSES = ["airplane", "bird", "car"]
LABELS = {"train": [2, 1, 3, 1, 2, 3], "test": [3, 1, 1]}
UNLABELLED = 5


def write_tree(root):
    """Returns (N, 3, 96, 96) pixels by part."""
    folder = root / stl10.FOLDER
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    pixels = {}
    for part, count in (("train", 6), ("test", 3), ("unlabeled", UNLABELLED)):
        pixels[part] = random.integers(0, 256, (count, *stl10.SHAPE), np.uint8)
        with open(folder / f"{part}_X.bin", "wb") as file:
            for image in pixels[part]:
                for plane in image:
                    file.write(b"".join(plane[:, column].tobytes() for column in range(96)))
    for part, labels in LABELS.items():
        (folder / f"{part}_y.bin").write_bytes(bytes(labels))
    (folder / "class_names.txt").write_text("\n".join(CLASSES) + "\n")
    (folder / "fold_indices.txt").write_text("0 2 4 \n5 1 \n")
    return pixels


def config(root, **options):
    return stl10.Config(root=str(root), **options)


def build(root, split="train", **options):
    return stl10.build(config(root, **options), split)


def test_labelled_parts_are_read_column_by_column(tmp_path):
    pixels = write_tree(tmp_path)
    for split in ("train", "test"):
        images = build(tmp_path, split, train_split="train")
        assert np.array_equal(images.images.numpy(), pixels[split])
        assert images.labels.tolist() == [label - 1 for label in LABELS[split]]
        assert images.images.dtype == torch.uint8 and images.labels.dtype == torch.int64
        assert images.classes == tuple(CLASSES) and len(images.mean) == len(images.std) == 3


def test_the_training_split_has_no_labels_unless_asked_for(tmp_path):
    pixels = write_tree(tmp_path)
    assert np.array_equal(build(tmp_path).images.numpy(), pixels["unlabeled"])
    both = build(tmp_path, train_split="train+unlabeled")
    assert np.array_equal(both.images.numpy(), np.concatenate([pixels["train"], pixels["unlabeled"]]))
    assert build(tmp_path).labels is None and both.labels is None


def test_probes_get_the_labelled_training_images(tmp_path):
    pixels = write_tree(tmp_path)
    for train_split in ("unlabeled", "train+unlabeled"):
        probe = stl10.build_probe(config(tmp_path, train_split=train_split))
        assert np.array_equal(probe.images.numpy(), pixels["train"])
        assert probe.labels.tolist() == [label - 1 for label in LABELS["train"]]
    assert stl10.build_probe(config(tmp_path, train_split="train")) is None


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        ({"limit": 2}, [0, 1]),
        ({"per_class": 1}, [0, 1, 2]),
        ({"fold": 0}, [0, 2, 4]),
        ({"fold": 1}, [5, 1]),
        ({"fold": 0, "per_class": 1}, [0, 2]),
        ({"fold": 0, "per_class": 1, "limit": 1}, [0]),
    ],
)
def test_a_part_of_the_labelled_images(tmp_path, options, rows):
    pixels = write_tree(tmp_path)
    for images in (build(tmp_path, train_split="train", **options), stl10.build_probe(config(tmp_path, **options))):
        assert np.array_equal(images.images.numpy(), pixels["train"][rows])
        assert images.labels.tolist() == [LABELS["train"][row] - 1 for row in rows]


def test_limit_takes_the_first_images(tmp_path):
    pixels = write_tree(tmp_path)
    assert np.array_equal(build(tmp_path, limit=2).images.numpy(), pixels["unlabeled"][:2])
    assert build(tmp_path, "test", limit=2).labels.tolist() == [2, 0]


def test_train_and_unlabelled_images_go_on_after_an_interruption(tmp_path, monkeypatch):
    pixels = write_tree(tmp_path)
    monkeypatch.setattr(stl10, "BLOCK_IMAGES", 2)
    whole = np.concatenate([pixels["train"], pixels["unlabeled"]])
    for kept in (0, 3, 6, 7, 11):
        cache = tmp_path / f"cache_{kept}"
        made = stl10.build(config(tmp_path, train_split="train+unlabeled", cache=str(cache)), "train")
        (path,) = cache.iterdir()
        content = path.read_bytes()
        path.unlink()
        path.with_name(f"{path.name}.partial").write_bytes(content[: len(content) - (11 - kept) * stl10.PIXELS])
        made = stl10.build(config(tmp_path, train_split="train+unlabeled", cache=str(cache)), "train")
        assert np.array_equal(made.images.numpy(), whole)


def test_views_do_not_depend_on_the_order_in_memory(tmp_path):
    images = build(tmp_path if write_tree(tmp_path) else None)
    ids = torch.arange(UNLABELLED)
    views = [
        make_views(pixels, ids, ViewsConfig(global_size=24), seed=0, epoch=0, mean=stl10.MEAN, std=stl10.STD)[0]
        for pixels in (images.images, images.images.contiguous())
    ]
    for strided, contiguous in zip(*views, strict=True):
        torch.testing.assert_close(strided, contiguous)


@pytest.mark.parametrize("name", stl10.NAMES)
def test_what_is_missing_is_named_with_its_folder_and_a_remedy(tmp_path, name):
    write_tree(tmp_path)
    folder = tmp_path / stl10.FOLDER
    (folder / name).unlink()
    message = rf"no {name} in {folder}; set data.download=true or run: curl -L .* tar xz -C {tmp_path}$"
    with pytest.raises(DataError, match=message) as caught:
        build(tmp_path)
        build(tmp_path, train_split="train", fold=0)
        build(tmp_path, "test")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train_X.bin", b"", "0 bytes are no whole number of images"),
        ("train_X.bin", b"x" * (stl10.PIXELS + 1), "27649 bytes are no whole number of images of 27648"),
        ("train_y.bin", b"\1\2", "2 labels for the 6 images of train_X.bin"),
        ("train_y.bin", b"\1\2\3\0\1\2", "labels from 0 to 3, should be 1 to 3"),
        ("train_y.bin", b"\1\2\3\4\1\2", "labels from 1 to 4, should be 1 to 3"),
        ("fold_indices.txt", b"0 2 4\n", "line 2 is no list of row numbers"),
        ("fold_indices.txt", b"0 2 4\n1 x\n", "line 2 is no list of row numbers"),
        ("fold_indices.txt", b"0 2 4\n1 6\n", "line 2 should hold row numbers from 0 to 5"),
        ("fold_indices.txt", b"0 2 4\n\n", "line 2 should hold row numbers from 0 to 5"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, content, message):
    write_tree(tmp_path)
    path = tmp_path / stl10.FOLDER / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{path}: {message}"):
        build(tmp_path, train_split="train", fold=1)
