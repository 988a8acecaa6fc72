"""Pixels of large image sets as one file, decoded once and mapped into memory by every rank.

The file is a header that says what is in it, then the pixels of image after image. It grows under another name,
where a process that was interrupted leaves a beginning for the next one to go on with, and appears under its own
name by one rename, when it is whole.

Shapes: N images, C channels, H x W pixels.
"""

import fcntl
import json
import math
import mmap
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from runner.errors import DataError

HEADER_BYTES = 4096
FORMAT = 1
"""Higher when pixels are made in another way, so that files made before are made again."""

MAP_NORESERVE = 0x4000
"""Of Linux; in Python's mmap from 3.13 on. Without it a private mapping larger than the memory is refused."""

Shape = tuple[int, int, int, int]
Blocks = Callable[[int], Iterable[NDArray[np.uint8]]]


def cached_pixels(path: Path, shape: Shape, source: str, blocks: Blocks) -> Tensor:
    """(N, C, H, W) uint8 over the file at `path`, which is made first unless it is there, whole and of this source.

    `source` identifies what the pixels are made of. `blocks(start)` gives them from image `start` on, any number of
    images at a time. Several processes may ask at once: they take turns where the file system has locks; where it
    has none they write the same bytes to the same places.

    Raises DataError if the file cannot be written, and whatever `blocks` raises.
    """
    header = json.dumps({"format": FORMAT, "shape": shape, "source": source}).encode().ljust(HEADER_BYTES)
    assert len(header) == HEADER_BYTES
    try:
        if not is_whole(path, header, math.prod(shape)):
            make(path, header, shape, blocks)
        return map_pixels(path, shape, HEADER_BYTES)
    except OSError as error:
        raise DataError(f"{path}: cannot be read or written: {error}; data.cache may name another folder") from error


def map_pixels(path: Path, shape: tuple[int, ...], offset: int = 0) -> Tensor:
    """A uint8 tensor over the bytes of a file from `offset` on.

    Pages are read when they are used, and the processes of a machine share them. Writing to the tensor makes a
    private copy of the page and leaves the file alone.
    """
    with open(path, "rb") as file:
        memory = mmap.mmap(
            file.fileno(), 0, flags=mmap.MAP_PRIVATE | MAP_NORESERVE, prot=mmap.PROT_READ | mmap.PROT_WRITE
        )
    return torch.frombuffer(memory, dtype=torch.uint8, count=math.prod(shape), offset=offset).view(shape)


def is_whole(path: Path, header: bytes, pixel_bytes: int) -> bool:
    """Whether the file has this header and this many bytes after it."""
    try:
        with open(path, "rb") as file:
            return file.read(HEADER_BYTES) == header and os.fstat(file.fileno()).st_size == HEADER_BYTES + pixel_bytes
    except FileNotFoundError:
        return False


def make(path: Path, header: bytes, shape: Shape, blocks: Blocks) -> None:
    """Write the file, going on from what an interrupted process left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    with open(os.open(partial, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
        # the kernel frees the lock of a process that dies
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        if is_whole(path, header, math.prod(shape)):
            # another process was faster; this one may have opened the name after the rename
            partial.unlink(missing_ok=True)
            return
        image_bytes = math.prod(shape[1:])
        done = 0
        if file.read(HEADER_BYTES) == header:
            done = (os.fstat(file.fileno()).st_size - HEADER_BYTES) // image_bytes
        else:
            file.truncate(0)
            file.seek(0)
            file.write(header)
        # an image that was cut off is written over
        file.seek(HEADER_BYTES + done * image_bytes)
        if done < shape[0]:
            print(f"runner: writing the pixels of {shape[0] - done} images to {path}, once", flush=True)
            for block in blocks(done):
                file.write(np.ascontiguousarray(block).data)
        assert file.tell() == HEADER_BYTES + math.prod(shape), "blocks() gave another number of images"
        file.flush()
        os.fsync(file.fileno())
        # without locks another process may have renamed it already
        with suppress(FileNotFoundError):
            os.replace(partial, path)
