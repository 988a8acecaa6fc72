"""Decoding of images and the choice among them, which all data sets of image files share."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from runner.data import _folder
from runner.data._folder import FolderConfig, Listing, decode, decode_all, read_images
from runner.dataset import choose
from runner.errors import DataError
from tests.data.jpegs import write_jpeg


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_an_image_of_the_right_size_is_as_pillow_reads_it(tmp_path, mode):
    pixels = write_jpeg(tmp_path / "a.jpg", (64, 64), mode)
    decoded = decode(tmp_path / "a.jpg", 64)
    assert decoded.dtype == np.uint8 and np.array_equal(decoded, pixels)
    assert (decoded[0] == decoded[2]).all() == (mode == "L")


@pytest.mark.parametrize(("size", "rows", "columns"), [((40, 20), (0, 20), (10, 30)), ((20, 36), (8, 28), (0, 20))])
def test_the_longer_side_is_cropped_to_the_centre(tmp_path, size, rows, columns):
    pixels = write_jpeg(tmp_path / "a.jpg", size)
    assert np.array_equal(decode(tmp_path / "a.jpg", 20), pixels[:, slice(*rows), slice(*columns)])


@pytest.mark.parametrize("size", [(100, 60), (61, 90), (31, 17), (32, 32), (500, 32)])
def test_other_sizes_are_resized_by_the_shorter_side(tmp_path, size):
    pixels = torch.from_numpy(write_jpeg(tmp_path / "a.jpg", size).copy())
    short = min(size)
    width, height = (32 * side // short for side in size)
    resized = F.interpolate(pixels[None].double(), (height, width), mode="bilinear", antialias=True)[0]
    left, top = (width - 32) // 2, (height - 32) // 2
    candidates = [resized[:, y : y + 32, x : x + 32] for y in (top, top + 1) for x in (left, left + 1)]
    decoded = torch.from_numpy(decode(tmp_path / "a.jpg", 32).copy()).double()
    assert decoded.shape == (3, 32, 32)
    assert min((decoded - crop).abs().max() for crop in candidates if crop.shape == decoded.shape) < 1.5


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "cannot identify"), (b"<html>", "cannot identify"), (None, "truncated"), (b"missing", "No such file")],
)
def test_what_is_no_image_is_named(tmp_path, content, message):
    path = tmp_path / "a.jpg"
    write_jpeg(path)
    path.write_bytes(path.read_bytes()[:-300] if content is None else content)
    if content == b"missing":
        path.unlink()
    with pytest.raises(DataError, match=rf"{path}: cannot be decoded: .*{message}") as caught:
        decode(path, 64)
    assert "\n" not in str(caught.value)


def test_images_of_another_kind_are_read_too(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    # a .JPEG of ImageNet is a PNG
    Image.fromarray(pixels).save(tmp_path / "a.JPEG", "PNG")
    assert np.array_equal(decode(tmp_path / "a.JPEG", 8), pixels.transpose(2, 0, 1))


def test_blocks_keep_the_order(tmp_path, monkeypatch):
    monkeypatch.setattr(_folder, "BLOCK_IMAGES", 4)
    paths = [tmp_path / f"{number}.jpg" for number in range(10)]
    pixels = [write_jpeg(path, (8, 8), seed=number) for number, path in enumerate(paths)]
    blocks = list(decode_all([str(path) for path in paths], 8))
    assert [len(block) for block in blocks] == [4, 4, 2]
    assert np.array_equal(np.concatenate(blocks), np.stack(pixels))


@pytest.mark.parametrize("per_class", [None, 1, 2, 100])
@pytest.mark.parametrize("limit", [None, 1, 4, 100])
def test_choose_takes_the_first_of_each_class_and_of_these_the_first(per_class, limit):
    labels = [2, 2, 0, 1, 2, 0, 0, 1, 2]
    wanted = [index for index, label in enumerate(labels) if labels[:index].count(label) < (per_class or len(labels))]
    assert choose(labels, per_class, limit) == wanted[: limit or len(labels)]


def make_tree(tmp_path, count=6):
    folder = tmp_path / "set"
    names = [f"{number % 2}/{number}.jpg" for number in range(count)]
    pixels = [write_jpeg(folder / name, (8, 8), seed=number) for number, name in enumerate(names)]
    return folder, Listing(names, [number % 2 for number in range(count)]), np.stack(pixels)


def test_options_choose_images_and_each_choice_has_its_file(tmp_path):
    folder, listing, pixels = make_tree(tmp_path)
    for options, rows in (
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"per_class": 2}, [0, 1, 2, 3]),
        ({"limit": 3}, [0, 1, 2]),
        ({"per_class": 1, "limit": 5}, [0, 1]),
    ):
        images, labels = read_images(FolderConfig(**options), folder, "train", listing, 8)
        assert np.array_equal(images.numpy(), pixels[rows])
        assert labels.tolist() == [listing.labels[row] for row in rows] and labels.dtype == torch.int64
    assert len(list(tmp_path.glob("set.train.8.*.pixels"))) == 4


def test_decoded_images_are_kept_and_belong_to_their_names_and_size(tmp_path):
    folder, listing, pixels = make_tree(tmp_path)
    config = FolderConfig(cache=str(tmp_path / "cache"))
    read_images(config, folder, "train", listing, 8)
    # nothing is decoded again: the images are not even there any more
    for path in folder.rglob("*.jpg"):
        path.unlink()
    assert np.array_equal(read_images(config, folder, "train", listing, 8)[0].numpy(), pixels)
    assert len(list((tmp_path / "cache").iterdir())) == 1 and list(tmp_path.glob("*.pixels")) == []

    write_jpeg(folder / "0/new.jpg", (8, 8), seed=9)
    with pytest.raises(DataError, match=rf"set: no 0.jpg in {folder}/0, but it is listed"):
        read_images(config, folder, "train", Listing([*listing.names, "0/new.jpg"], [*listing.labels, 0]), 8)
    with pytest.raises(DataError, match=r"no 0.jpg"):
        read_images(config, folder, "train", listing, 4)


def test_a_broken_image_stops_it_and_the_next_attempt_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(_folder, "BLOCK_IMAGES", 2)
    folder, listing, pixels = make_tree(tmp_path)
    whole = (folder / listing.names[3]).read_bytes()
    (folder / listing.names[3]).write_bytes(whole[:20])
    with pytest.raises(DataError, match=f"{folder / listing.names[3]}: cannot be decoded"):
        read_images(FolderConfig(), folder, "train", listing, 8)
    (folder / listing.names[3]).write_bytes(whole)
    images, _ = read_images(FolderConfig(), folder, "train", listing, 8)
    assert np.array_equal(images.numpy(), pixels)
