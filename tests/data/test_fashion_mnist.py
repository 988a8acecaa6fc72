import gzip
import hashlib
import struct

import numpy as np
import pytest
import torch

from runner.data import fashion_mnist, fashion_mnist_sample
from runner.errors import DataError

SHIPPED = fashion_mnist_sample.SHIPPED
COUNTS = {"train": 6, "t10k": 4}


def idx(array):
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write(folder, packed=True):
    """Four small files in the official format; returns their arrays by name."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    arrays = {}
    for split, count in COUNTS.items():
        arrays[f"{split}-images-idx3-ubyte"] = random.integers(0, 256, (count, 28, 28), np.uint8)
        arrays[f"{split}-labels-idx1-ubyte"] = random.integers(0, 10, count, np.uint8)
    for name, array in arrays.items():
        content = idx(array)
        (folder / f"{name}.gz" if packed else folder / name).write_bytes(gzip.compress(content) if packed else content)
    return arrays


def build(folder, split="train", **options):
    return fashion_mnist.build(fashion_mnist.Config(root=str(folder), **options), split)


@pytest.mark.parametrize("packed", [True, False])
def test_reads_the_official_files(tmp_path, packed):
    arrays = write(tmp_path, packed)
    for split, prefix in fashion_mnist.STEMS.items():
        images = build(tmp_path, split)
        assert np.array_equal(images.images[:, 0].numpy(), arrays[f"{prefix}-images-idx3-ubyte"])
        assert images.labels.tolist() == arrays[f"{prefix}-labels-idx1-ubyte"].tolist()
        assert images.images.dtype == torch.uint8 and images.labels.dtype == torch.int64
        assert len(images.classes) == 10 and len(images.mean) == len(images.std) == 1


def test_limit_takes_the_first_images(tmp_path):
    write(tmp_path)
    assert torch.equal(build(tmp_path, limit=2).images, build(tmp_path).images[:2])
    assert len(build(tmp_path, "test", limit=100)) == COUNTS["t10k"]


def test_a_missing_file_is_named_with_its_folder_and_a_remedy(tmp_path):
    write(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    build(tmp_path, "train")
    with pytest.raises(DataError, match=rf"no t10k-labels-idx1-ubyte\[.gz\] in {tmp_path}; set data.download=true"):
        build(tmp_path, "test")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-1], "should be 4720"),
        (lambda content: content + b"x", "4721 bytes for values of shape"),
        (lambda content: b"\1" + content[1:], "not an IDX file"),
        (lambda content: b"", "not an IDX file"),
        (lambda content: content[:6], "bytes for values of shape"),
        (lambda content: idx(np.zeros((5, 28, 28), np.uint8)), "does not go with"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, damage, message):
    write(tmp_path, packed=False)
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=rf"{path}.*{message}"):
        build(tmp_path)


def test_a_truncated_archive_is_named(tmp_path):
    write(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=f"{path}: cannot be unpacked"):
        build(tmp_path)


def test_an_impossible_label_is_found(tmp_path):
    write(tmp_path)
    path = tmp_path / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(idx(np.array([0, 1, 2, 3, 4, 10], np.uint8))))
    with pytest.raises(DataError, match=f"{path}: label 10, should be 0 to 9"):
        build(tmp_path)


def test_the_shipped_sample_is_what_its_readme_says():
    sums = dict(
        reversed(line.split()) for line in (SHIPPED / "README.md").read_text().splitlines() if ".gz" in line[64:]
    )
    for name in fashion_mnist.MD5:
        assert hashlib.sha256((SHIPPED / f"{name}.gz").read_bytes()).hexdigest() == sums[f"{name}.gz"]

    config = fashion_mnist_sample.Config()
    train, test = fashion_mnist_sample.build(config, "train"), fashion_mnist_sample.build(config, "test")
    assert train.images.shape == (10_000, 1, 28, 28) and test.images.shape == (2_000, 1, 28, 28)
    assert train.labels.bincount().tolist() == [942, 1027, 1016, 1019, 974, 989, 1021, 1022, 990, 1000]
    assert test.labels.bincount().tolist() == [200, 203, 214, 190, 219, 195, 197, 200, 194, 188]
    scaled = train.images.double() / 255
    assert scaled.mean().item() == pytest.approx(train.mean[0], abs=2e-3)
    assert scaled.std().item() == pytest.approx(train.std[0], abs=2e-3)


def test_a_sample_left_out_of_the_installation_is_explained(tmp_path):
    with pytest.raises(DataError, match=rf"no train-images-idx3-ubyte\[.gz\] in {tmp_path}; it comes with a checkout"):
        fashion_mnist_sample.build(fashion_mnist_sample.Config(root=str(tmp_path)), "train")
