"""The file of decoded pixels: made once, mapped, resumed, made again when it is not what is asked for."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from runner.decoded import HEADER_BYTES, cached_pixels, map_pixels
from runner.errors import DataError

SHAPE = 10, 3, 4, 4
PIXELS = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)
IMAGE_BYTES = 3 * 4 * 4


class Source:
    """Gives `pixels` three at a time from any image on; breaks off after `until` images."""

    def __init__(self, pixels=PIXELS, until=None):
        self.pixels, self.until, self.starts = pixels, until, []

    def __call__(self, start):
        self.starts.append(start)
        for first in range(start, len(self.pixels), 3):
            if self.until is not None and first >= self.until:
                raise KeyboardInterrupt
            yield self.pixels[first : first + 3]


def make(path, source, name="a", shape=SHAPE):
    return cached_pixels(path, shape, name, source)


def list_all(folder):
    return sorted(path.name for path in folder.iterdir())


def test_pixels_are_made_once(tmp_path):
    source = Source()
    path = tmp_path / "new" / "set.pixels"
    for _ in range(2):
        pixels = make(path, source)
        assert pixels.dtype == torch.uint8 and pixels.shape == SHAPE
        assert np.array_equal(pixels.numpy(), PIXELS)
    assert source.starts == [0]
    assert list_all(path.parent) == ["set.pixels"]
    assert path.stat().st_size == HEADER_BYTES + PIXELS.size


def test_pixels_in_any_memory_order(tmp_path):
    transposed = np.asfortranarray(PIXELS)
    assert np.array_equal(make(tmp_path / "a", Source(transposed)).numpy(), PIXELS)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes() + b"x"),
        lambda path: path.write_bytes(b"x" + path.read_bytes()[1:]),
        lambda path: path.write_bytes(b""),
    ],
)
def test_a_spoilt_file_is_made_again(tmp_path, spoil):
    path, source = tmp_path / "a", Source()
    make(path, source)
    spoil(path)
    assert np.array_equal(make(path, source).numpy(), PIXELS)
    assert source.starts == [0, 0]


def test_another_source_or_shape_is_made_again(tmp_path):
    path = tmp_path / "a"
    make(path, Source())
    other = Source(255 - PIXELS)
    assert np.array_equal(make(path, other, name="b").numpy(), 255 - PIXELS)
    assert np.array_equal(make(path, other, "b", (5, 6, 4, 4)).numpy().ravel(), 255 - PIXELS.ravel())
    assert other.starts == [0, 0]


def test_pixels_mapped_before_stay_when_the_file_is_made_again(tmp_path):
    before = make(tmp_path / "a", Source())
    make(tmp_path / "a", Source(255 - PIXELS), name="b")
    assert np.array_equal(before.numpy(), PIXELS)


def test_an_interrupted_process_leaves_a_beginning(tmp_path):
    path = tmp_path / "a"
    with pytest.raises(KeyboardInterrupt):
        make(path, Source(until=6))
    assert list_all(tmp_path) == ["a.partial"]
    # killed in the middle of the next image
    with open(tmp_path / "a.partial", "ab") as file:
        file.write(b"x" * (IMAGE_BYTES - 1))
    source = Source()
    assert np.array_equal(make(path, source).numpy(), PIXELS)
    assert source.starts == [6]
    assert list_all(tmp_path) == ["a"]


def test_a_process_killed_before_the_rename_leaves_everything(tmp_path):
    path, source = tmp_path / "a", Source()
    make(path, source)
    path.rename(tmp_path / "a.partial")
    assert np.array_equal(make(path, source).numpy(), PIXELS)
    assert source.starts == [0]


@pytest.mark.parametrize("left", [b"", b"x" * 100, b"x" * (HEADER_BYTES + 100)])
def test_a_beginning_of_something_else_is_not_used(tmp_path, left):
    (tmp_path / "a.partial").write_bytes(left)
    source = Source()
    assert np.array_equal(make(tmp_path / "a", source).numpy(), PIXELS)
    assert source.starts == [0]


def test_processes_at_once_make_one_file(tmp_path):
    code = f"""
import sys, numpy as np
from pathlib import Path
from runner.decoded import cached_pixels
pixels = np.random.default_rng(0).integers(0, 256, {SHAPE}, np.uint8)
sys.stdin.read()
made = cached_pixels(Path(sys.argv[1]), {SHAPE}, "a", lambda start: [pixels[start:]])
assert np.array_equal(made.numpy(), pixels)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "a")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(3)]
    for process in processes:
        process.stdin.close()
        process.stdin = None
    said = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 3
    assert sum(text.count("writing the pixels of 10 images") for text in said) == 1
    assert list_all(tmp_path) == ["a"]


def test_without_locks_a_process_may_overtake_another(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    path, later = tmp_path / "a", Source()

    def overtaken(start):
        for first in range(start, 10, 3):
            if first == 6:
                assert np.array_equal(make(path, later).numpy(), PIXELS)
            yield PIXELS[first : first + 3]

    assert np.array_equal(make(path, overtaken).numpy(), PIXELS)
    assert len(later.starts) == 1
    assert np.array_equal(make(path, Source()).numpy(), PIXELS)
    assert list_all(tmp_path) == ["a"]


def test_writing_to_the_pixels_leaves_the_file_alone(tmp_path):
    make(tmp_path / "a", Source()).zero_()
    assert np.array_equal(make(tmp_path / "a", Source()).numpy(), PIXELS)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    path = tmp_path / "file" / "a"
    with pytest.raises(
        DataError, match=rf"{path}: cannot be read or written: .*; data.cache may name another folder"
    ) as caught:
        make(path, Source())
    assert "\n" not in str(caught.value)


def test_what_stands_in_the_place_of_the_file_is_named(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(DataError, match=rf"{tmp_path / 'a'}: .*directory"):
        make(tmp_path / "a", Source())


@pytest.mark.skipif(
    Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "2", reason="this kernel reserves all it maps"
)
def test_more_pixels_than_memory_are_mapped(tmp_path):
    path, rows = tmp_path / "a", 2**40 // IMAGE_BYTES
    with open(path, "wb") as file:
        file.seek((rows - 1) * IMAGE_BYTES)
        file.write(PIXELS[3].tobytes())
    pixels = map_pixels(path, (rows, *SHAPE[1:]))
    assert np.array_equal(pixels[-1].numpy(), PIXELS[3]) and not pixels[rows // 2].any()
