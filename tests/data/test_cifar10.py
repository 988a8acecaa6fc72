import lzma
import pickle
import struct

import numpy as np
import pytest
import torch

from runner.data import cifar10
from runner.errors import DataError

STEMS = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]


def make_batches(count=3):
    random = np.random.default_rng(0)
    return {
        stem: (random.integers(0, 256, (count, 3072), np.uint8), random.integers(0, 10, count).tolist())
        for stem in STEMS
    }


def write_binary(root):
    folder = root / cifar10.BINARY
    folder.mkdir(parents=True)
    for stem, (pixels, labels) in (batches := make_batches()).items():
        (folder / f"{stem}.bin").write_bytes(
            b"".join(bytes([y]) + x.tobytes() for x, y in zip(pixels, labels, strict=True))
        )
    return batches


class Python2Pickler(pickle._Pickler):
    """Writes byte strings as Python 2 did, like the official files."""

    dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012

    def save_string(self, text):
        content = text if isinstance(text, bytes) else text.encode("latin1")
        self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)
        self.memoize(text)

    dispatch[bytes] = dispatch[str] = save_string

    def save_global(self, value, name=None):
        names = {np.ndarray: "numpy\nndarray", np.dtype: "numpy\ndtype"}
        self.write(b"c" + names.get(value, "numpy.core.multiarray\n_reconstruct").encode() + b"\n")


def write_pickle(path, content):
    with open(path, "wb") as file:
        Python2Pickler(file, protocol=2).dump(content)


def write_pickles(root):
    folder = root / cifar10.PICKLED
    folder.mkdir(parents=True)
    for stem, (pixels, labels) in (batches := make_batches()).items():
        write_pickle(folder / stem, {"batch_label": stem, "labels": labels, "data": pixels, "filenames": ["a.png"] * 3})
    return batches


def build(root, split="train", **options):
    return cifar10.build(cifar10.Config(root=str(root), **options), split)


@pytest.mark.parametrize("write", [write_binary, write_pickles])
def test_reads_both_official_layouts(tmp_path, write):
    batches = write(tmp_path)
    for split, stems in (("train", STEMS[:5]), ("test", STEMS[5:])):
        images = build(tmp_path, split)
        pixels = np.concatenate([batches[stem][0] for stem in stems]).reshape(-1, 3, 32, 32)
        assert np.array_equal(images.images.numpy(), pixels)
        assert images.labels.tolist() == [label for stem in stems for label in batches[stem][1]]
        assert images.images.dtype == torch.uint8 and images.labels.dtype == torch.int64
        assert images.images.is_contiguous()
        assert len(images.classes) == 10 and len(images.mean) == len(images.std) == 3


@pytest.mark.parametrize("write", [write_binary, write_pickles])
def test_some_batches_and_the_first_images(tmp_path, write):
    batches = write(tmp_path)
    assert np.array_equal(build(tmp_path, batches=(2,)).images.flatten(1).numpy(), batches["data_batch_2"][0])
    assert len(build(tmp_path, batches=(1, 3))) == 6
    assert torch.equal(build(tmp_path, limit=4).images, build(tmp_path).images[:4])


@pytest.mark.parametrize("write", [write_binary, write_pickles])
def test_one_batch_is_enough_to_train_on(tmp_path, write):
    batches = write(tmp_path)
    for path in (tmp_path / (cifar10.BINARY if write is write_binary else cifar10.PICKLED)).iterdir():
        if path.stem not in ("data_batch_1", "test_batch"):
            path.unlink()
    options = {"batches": (1,), "test_limit": 2}
    assert build(tmp_path, **options).labels.tolist() == batches["data_batch_1"][1]
    assert build(tmp_path, "test", **options).labels.tolist() == batches["test_batch"][1][:2]
    assert len(build(tmp_path, "test", limit=1, **options)) == 2


def test_packed_records_are_read_as_they_are(tmp_path):
    write_binary(tmp_path)
    whole = build(tmp_path)
    for path in (tmp_path / cifar10.BINARY).iterdir():
        path.with_name(f"{path.name}.xz").write_bytes(lzma.compress(path.read_bytes()))
        path.unlink()
    assert torch.equal(build(tmp_path).images, whole.images)
    path = tmp_path / cifar10.BINARY / "data_batch_2.bin.xz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=f"{path}: cannot be unpacked"):
        build(tmp_path)


def test_the_layouts_agree(tmp_path):
    write_binary(tmp_path / "a")
    write_pickles(tmp_path / "b")
    assert torch.equal(build(tmp_path / "a").images, build(tmp_path / "b").images)


def test_a_missing_batch_is_named(tmp_path):
    write_binary(tmp_path)
    (tmp_path / cifar10.BINARY / "data_batch_4.bin").unlink()
    with pytest.raises(
        DataError, match=r"no data_batch_4.bin in .*cifar-10-batches-bin; set data.download=true or run: curl"
    ):
        build(tmp_path)
    build(tmp_path, batches=(1, 2))
    build(tmp_path, "test")


def test_a_missing_data_set_says_what_was_looked_for(tmp_path):
    with pytest.raises(DataError, match=rf"in {tmp_path}, which has neither cifar-10-batches-bin nor") as caught:
        build(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [0, 100, 3073 * 3 - 1, 3073 * 3 + 1])
def test_a_cut_off_binary_is_named(tmp_path, size):
    write_binary(tmp_path)
    path = tmp_path / cifar10.BINARY / "test_batch.bin"
    path.write_bytes((path.read_bytes() + b"x")[:size])
    with pytest.raises(DataError, match=rf"{path}: {size} bytes"):
        build(tmp_path, "test")


@pytest.mark.parametrize("write", [write_binary, write_pickles])
def test_an_impossible_label_is_found(tmp_path, write):
    write(tmp_path)
    binary, pickled = (
        tmp_path / cifar10.BINARY / "data_batch_1.bin",
        tmp_path / cifar10.PICKLED / "data_batch_1",
    )
    if write is write_binary:
        binary.write_bytes(b"\x0a" + binary.read_bytes()[1:])
    else:
        write_pickle(pickled, {"labels": [0, 10, 2], "data": np.zeros((3, 3072), np.uint8)})
    with pytest.raises(DataError, match=r"data_batch_1.*labels from 0 to 10|data_batch_1.*to 10, should be 0 to 9"):
        build(tmp_path)


class Dangerous:
    def __reduce__(self):
        return (print, ("this pickle ran its code",))


def truncate(path):
    path.write_bytes(path.read_bytes()[:-50])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "not a CIFAR-10 batch"),
        (lambda path: path.write_bytes(b""), "not a CIFAR-10 batch"),
        (
            lambda path: path.write_bytes(pickle.dumps({"data": Dangerous(), "labels": []})),
            "asks for builtins.print",
        ),
        (lambda path: path.write_bytes(pickle.dumps([1, 2])), "not a CIFAR-10 batch"),
        (lambda path: path.write_bytes(pickle.dumps({"data": "x"})), "not a CIFAR-10 batch: 'labels'"),
        (
            lambda path: write_pickle(path, {"data": np.zeros((2, 3), np.uint8), "labels": [1, 2]}),
            r"uint8 pixels \(2, 3\), int64 labels \(2,\)",
        ),
    ],
)
def test_a_damaged_pickle_is_named_and_never_runs(tmp_path, damage, message, capsys):
    write_pickles(tmp_path)
    path = tmp_path / cifar10.PICKLED / "data_batch_3"
    damage(path)
    with pytest.raises(DataError, match=rf"{path}: {message}|{path}.*{message}"):
        build(tmp_path)
    assert capsys.readouterr().out == ""
