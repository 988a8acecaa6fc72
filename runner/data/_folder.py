"""Data sets that are folders of image files: each image is decoded once, to one size, into a file beside the folder.

Shapes: N images, S x S pixels.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from runner.dataset import choose
from runner.decoded import cached_pixels
from runner.errors import DataError
from runner.schema import Options

BLOCK_IMAGES = 256
"""Decoded at a time; what an interruption loses at most."""

Count = Annotated[int, Field(ge=1)]


class FolderConfig(Options):
    """What all data sets of image files have in common."""

    cache: str | None = None
    """Folder for the decoded images. None: beside the folder of the images."""

    per_class: Count | None = None
    """At most this many images of each class of a split, the first ones. None: all."""

    limit: Count | None = None
    """At most this many images of a split, the first ones of what `per_class` leaves. The training images come class
    after class, so a small limit leaves few classes. None: all."""


class Listing(NamedTuple):
    """The images of one split, in the order of the data set."""

    names: list[str]
    """Paths relative to the folder of the data set."""

    labels: list[int]


def read_images(config: FolderConfig, folder: Path, split: str, listing: Listing, size: int) -> tuple[Tensor, Tensor]:
    """(N, 3, S, S) uint8 pixels and (N,) int64 labels of the images that the options ask for.

    An image that is replaced by another of the same name is not noticed; deleting the file of decoded images is
    the way to have them read again. Raises DataError for an image that is missing or broken.
    """
    chosen = choose(listing.labels, config.per_class, config.limit)
    names = [listing.names[index] for index in chosen]
    labels = torch.tensor([listing.labels[index] for index in chosen])
    source = hashlib.sha256("\n".join(names).encode()).hexdigest()
    cache = Path(config.cache).expanduser() if config.cache else folder.parent

    def blocks(start: int) -> Iterator[NDArray[np.uint8]]:
        check_all_there(folder, names)
        return decode_all([f"{folder}/{name}" for name in names[start:]], size)

    path = cache / f"{folder.name}.{split}.{size}.{source[:12]}.pixels"
    return cached_pixels(path, (len(names), 3, size, size), source, blocks), labels


def list_names(folder: Path, suffix: str) -> list[str]:
    """Names of the files in a folder that end so, sorted; none if there is no such folder."""
    try:
        return sorted(name for name in os.listdir(folder) if name.endswith(suffix))
    except (FileNotFoundError, NotADirectoryError):
        return []


def find(path: Path, folder: Path, data_set: str, command: str) -> Path:
    """The path itself, if it is there; else DataError with the command that gets the folder of the data set."""
    if path.exists():
        return path
    # a folder that is there, though not whole, is never replaced by a download
    remedy = "run" if folder.exists() else "set data.download=true or run"
    raise DataError(f"{data_set}: no {path.relative_to(folder)} in {folder}; {remedy}: {command}")


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty; raises DataError if it is not UTF-8."""
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text: {error}") from error


def check_all_there(folder: Path, names: Sequence[str]) -> None:
    """Raise DataError for the first file that is not there; each folder is read once."""
    there: dict[str, set[str]] = {}
    for name in names:
        parent, _, file = name.rpartition("/")
        if name.startswith("/") or ".." in name.split("/"):
            raise DataError(f"{folder.name}: {name!r} is listed, which leads out of {folder}; unpack the archive again")
        if parent not in there:
            there[parent] = set(list_names(folder / parent, ""))
        if file not in there[parent]:
            raise DataError(
                f"{folder.name}: no {file} in {folder / parent}, but it is listed; unpack the archive again"
            )


def decode_all(paths: Sequence[str], size: int) -> Iterator[NDArray[np.uint8]]:
    """Blocks of (n, 3, S, S) pixels in order, decoded in parallel on the CPUs this process may use."""
    # Threads: pillow decodes and resizes without the interpreter's lock, and unlike processes they need no
    # protection from the signals of a preemption and do not outlive a killed rank.
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for first in range(0, len(paths), BLOCK_IMAGES):
            yield np.stack(list(pool.map(decode, paths[first : first + BLOCK_IMAGES], repeat(size))))


def decode(path: str, size: int) -> NDArray[np.uint8]:
    """(3, S, S) pixels of an image in colour, resized by its shorter side and cropped to its centre.

    Grey images get three equal channels. The sizes are rounded as in torchvision's Resize and CenterCrop.
    Raises DataError for what is no image or is cut off.
    """
    from PIL import Image

    try:
        # No other formats: Pillow would hand a PostScript file to Ghostscript, which runs it.
        with Image.open(path, formats=("JPEG", "PNG")) as file:
            image = file.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: cannot be decoded: {error}") from error
    short = min(image.size)
    if short != size:
        width, height = (size * side // short for side in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (round((side - size) / 2) for side in image.size)
    return np.asarray(image.crop((left, top, left + size, top + size))).transpose(2, 0, 1)
