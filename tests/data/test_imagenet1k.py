import numpy as np
import pytest
import torch
from scipy.io import savemat

from runner.data import imagenet1k
from runner.errors import DataError
from tests.data.jpegs import read_pixels, write_jpeg

WNIDS = ["n01440764", "n01443537", "n02123045"]
IDS = {"n02123045": 1, "n01440764": 2, "n01443537": 3}
"""ILSVRC2012_ID, which does not follow the wnids."""

VAL = ["n02123045", "n01440764", "n02123045", "n01443537"]


def write_train(root):
    for label, wnid in enumerate(WNIDS):
        for number in (10, 9):
            write_jpeg(root / "train" / wnid / f"{wnid}_{number}.JPEG", (24, 16), seed=10 * label + number)


def name_val(number):
    return f"ILSVRC2012_val_{number + 1:08}.JPEG"


def write_val_folders(root):
    for number, wnid in enumerate(VAL):
        write_jpeg(root / "val" / wnid / name_val(number), (16, 24), seed=100 + number)


def write_flat_val(root):
    """As the official archive of images and the development kit unpack."""
    for number in range(len(VAL)):
        write_jpeg(root / "val" / name_val(number), (16, 24), seed=100 + number)
    devkit = root / imagenet1k.DEVKIT / "data"
    devkit.mkdir(parents=True)
    (devkit / imagenet1k.GROUND_TRUTH).write_text("".join(f"{IDS[wnid]}\n" for wnid in VAL))
    # synsets that are no classes follow the 1,000 that are
    rows = [*sorted((number, wnid) for wnid, number in IDS.items()), (4, "n00001740")]
    kinds = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object), ("num_children", object)]
    synsets = np.array([(float(number), wnid, "words", 0.0) for number, wnid in rows], kinds)
    savemat(devkit / "meta.mat", {"synsets": synsets[:, None]})


def build(root, split="train", **options):
    return imagenet1k.build(imagenet1k.Config(root=str(root), size=16, **options), split)


def test_classes_are_the_sorted_folders_of_train(tmp_path):
    write_train(tmp_path)
    images = build(tmp_path)
    paths = [tmp_path / "train" / wnid / f"{wnid}_{number}.JPEG" for wnid in WNIDS for number in (10, 9)]
    assert np.array_equal(images.images.numpy(), np.stack([read_pixels(path)[:, :, 4:20] for path in paths]))
    assert images.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert images.images.dtype == torch.uint8 and images.labels.dtype == torch.int64
    assert images.classes == tuple(WNIDS)
    assert build(tmp_path, per_class=1).labels.tolist() == [0, 1, 2]
    assert build(tmp_path, limit=3).labels.tolist() == [0, 0, 1]
    assert imagenet1k.Config().size == 224


def test_validation_images_in_folders(tmp_path):
    write_train(tmp_path)
    write_val_folders(tmp_path)
    images = build(tmp_path, "test")
    order = [1, 3, 0, 2]
    paths = [tmp_path / "val" / VAL[number] / name_val(number) for number in order]
    assert np.array_equal(images.images.numpy(), np.stack([read_pixels(path)[:, 4:20] for path in paths]))
    assert images.labels.tolist() == [0, 1, 2, 2]


def test_validation_images_side_by_side(tmp_path):
    write_train(tmp_path)
    write_flat_val(tmp_path)
    images = build(tmp_path, "test")
    paths = [tmp_path / "val" / name_val(number) for number in range(4)]
    assert np.array_equal(images.images.numpy(), np.stack([read_pixels(path)[:, 4:20] for path in paths]))
    assert images.labels.tolist() == [2, 0, 2, 1]


@pytest.mark.parametrize("write_val", [write_val_folders, write_flat_val])
def test_a_part_of_the_classes_is_a_data_set(tmp_path, write_val):
    write_train(tmp_path)
    write_val(tmp_path)
    (tmp_path / "train" / WNIDS[1]).rename(tmp_path / "elsewhere")
    assert build(tmp_path).labels.tolist() == [0, 0, 1, 1]
    assert sorted(build(tmp_path, "test").labels.tolist()) == [0, 1, 1]


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("train", "train", "no train/<wnid>/"),
        ("train/n01443537/*", "train", "no train/n01443537/"),
        ("val", "test", "no val/<wnid>/"),
        (f"{imagenet1k.DEVKIT}/data/{imagenet1k.GROUND_TRUTH}", "test", f"no {imagenet1k.DEVKIT}/data/ILSVRC2012_val"),
        (f"{imagenet1k.DEVKIT}/data/meta.mat", "test", f"no {imagenet1k.DEVKIT}/data/meta.mat"),
    ],
)
def test_what_is_missing_is_named_and_the_licence_too(tmp_path, name, split, message):
    root = tmp_path / "imagenet"
    write_train(root)
    write_flat_val(root)
    for path in root.glob(name):
        path.rename(tmp_path / path.name)
    with pytest.raises(DataError, match=rf"{message}.* in {root}; its licence allows no download from here") as caught:
        build(root, split)
    assert "\n" not in str(caught.value)


def test_a_ground_truth_that_does_not_fit_is_named(tmp_path):
    write_train(tmp_path)
    write_flat_val(tmp_path)
    (tmp_path / "val" / name_val(3)).unlink()
    path = tmp_path / imagenet1k.DEVKIT / "data" / imagenet1k.GROUND_TRUTH
    with pytest.raises(DataError, match=f"{path}: has 4 lines for 3 images in {tmp_path / 'val'}"):
        build(tmp_path, "test")


def test_a_damaged_meta_file_is_named(tmp_path):
    write_train(tmp_path)
    write_flat_val(tmp_path)
    path = tmp_path / imagenet1k.DEVKIT / "data" / "meta.mat"
    path.write_bytes(b"x" * 200)
    with pytest.raises(DataError, match=f"{path}: is not the meta.mat of {imagenet1k.DEVKIT}"):
        build(tmp_path, "test")
