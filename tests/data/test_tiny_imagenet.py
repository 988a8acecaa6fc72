import numpy as np
import pytest
import torch

from runner.data import tiny_imagenet
from runner.errors import DataError
from tests.data.jpegs import read_pixels, write_jpeg

# not sorted, as in the official file
WNIDS = ["n02124075", "n04067472", "n00000001"]
WORDS = {"n00000001": "lemon", "n02124075": "Egyptian cat", "n04067472": "reel", "n99999999": "never asked for"}


def write_tree(root, images=3, val=4):
    folder = root / tiny_imagenet.FOLDER
    (folder / "val" / "images").mkdir(parents=True)
    (folder / "wnids.txt").write_text("".join(f"{wnid}\n" for wnid in WNIDS))
    (folder / "words.txt").write_text("".join(f"{wnid}\t{words}\n" for wnid, words in WORDS.items()))
    for label, wnid in enumerate(WNIDS):
        for number in range(images):
            mode = "L" if number == 1 else "RGB"
            write_jpeg(
                folder / "train" / wnid / "images" / f"{wnid}_{number}.JPEG", mode=mode, seed=10 * label + number
            )
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t0\t9\t9\n")
    lines = []
    for number in range(val):
        write_jpeg(folder / "val" / "images" / f"val_{number}.JPEG", seed=100 + number)
        lines.append(f"val_{number}.JPEG\t{WNIDS[-1 - number % 3]}\t0\t0\t62\t62\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    return folder


def build(root, split="train", **options):
    return tiny_imagenet.build(tiny_imagenet.Config(root=str(root), **options), split)


def test_training_images_come_class_after_class_in_the_order_of_wnids(tmp_path):
    folder = write_tree(tmp_path)
    images = build(tmp_path)
    paths = [folder / "train" / wnid / "images" / f"{wnid}_{number}.JPEG" for wnid in WNIDS for number in range(3)]
    assert np.array_equal(images.images.numpy(), np.stack([read_pixels(path) for path in paths]))
    assert images.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert images.images.dtype == torch.uint8 and images.labels.dtype == torch.int64
    assert images.classes == ("Egyptian cat", "reel", "lemon")
    assert len(images.mean) == len(images.std) == 3


def test_the_test_split_is_the_validation_set_in_the_order_of_its_annotations(tmp_path):
    folder = write_tree(tmp_path)
    images = build(tmp_path, "test")
    paths = [folder / "val" / "images" / f"val_{number}.JPEG" for number in range(4)]
    assert np.array_equal(images.images.numpy(), np.stack([read_pixels(path) for path in paths]))
    assert images.labels.tolist() == [2, 1, 0, 2]


def test_per_class_and_limit(tmp_path):
    write_tree(tmp_path)
    assert build(tmp_path, per_class=2).labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert build(tmp_path, limit=4).labels.tolist() == [0, 0, 0, 1]
    assert torch.equal(build(tmp_path, limit=4).images, build(tmp_path).images[:4])
    assert build(tmp_path, "test", per_class=1).labels.tolist() == [2, 1, 0]


def test_wnids_choose_the_classes(tmp_path):
    folder = write_tree(tmp_path)
    (folder / "wnids.txt").write_text(f"{WNIDS[2]}\n")
    assert build(tmp_path).labels.tolist() == [0, 0, 0]
    assert build(tmp_path, "test").labels.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("wnids.txt", "train"),
        ("words.txt", "test"),
        ("val/val_annotations.txt", "test"),
        ("train/n04067472/images", "train"),
    ],
)
def test_what_is_missing_is_named_with_its_folder_and_a_remedy(tmp_path, name, split):
    folder = write_tree(tmp_path)
    (folder / name).rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=rf"no {name} in {folder}; run: curl -LO .* unzip .* -d {tmp_path}$") as caught:
        build(tmp_path, split)
    assert "\n" not in str(caught.value)


def test_a_missing_data_set_can_be_downloaded(tmp_path):
    with pytest.raises(DataError, match=rf"no wnids.txt in {tmp_path}/.*; set data.download=true or run: curl"):
        build(tmp_path)


def test_an_annotated_image_that_is_missing_is_named(tmp_path):
    folder = write_tree(tmp_path)
    (folder / "val" / "images" / "val_2.JPEG").unlink()
    with pytest.raises(DataError, match=rf"no val_2.JPEG in {folder}/val/images, but it is listed"):
        build(tmp_path, "test")


def test_a_class_without_images_is_named(tmp_path):
    folder = write_tree(tmp_path)
    for path in (folder / "train" / WNIDS[1] / "images").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=rf"no .JPEG in {folder}/train/{WNIDS[1]}/images"):
        build(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [("val_0.JPEG n02124075\n", "'val_0.JPEG n02124075' is no file name"), ("val_0.JPEG\tn1\t0\n", "has no image")],
)
def test_strange_annotations_are_named(tmp_path, text, message):
    path = write_tree(tmp_path) / "val" / "val_annotations.txt"
    path.write_text(text)
    with pytest.raises(DataError, match=f"{path}: {message}"):
        build(tmp_path, "test")


def test_a_text_file_that_is_none_is_named(tmp_path):
    path = write_tree(tmp_path) / "wnids.txt"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=f"{path}: is not UTF-8 text"):
        build(tmp_path)
