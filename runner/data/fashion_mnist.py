"""Fashion-MNIST (Xiao et al. 2017): 60,000 training and 10,000 test images, 28 x 28, grey, 10 classes.

The files are in MNIST's IDX format: two zero bytes, 8 for unsigned bytes, the number of dimensions, each
dimension as four bytes (big end first), then the values.

Shapes: N images.
"""

import math
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from runner.dataset import ImageSet
from runner.download import fetch_file
from runner.errors import DataError
from runner.schema import Options
from runner.unpacking import read_unpacked

URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
MD5 = {
    "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
}
"""Of the .gz files at the official address."""

DEBIAN, HOME = "/usr/share/datasets/fashion-mnist", "~/data/fashion-mnist"
STEMS = {"train": "train", "test": "t10k"}
CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
# over all pixels of the 60,000 training images
MEAN, STD = (0.2860,), (0.3530,)


class Config(Options):
    root: str | None = None
    """Folder with the four IDX files, raw or .gz. None: where Debian's dataset-fashion-mnist puts them, else
    ~/data/fashion-mnist."""

    download: bool = False
    """Fetch what is missing from the official address (31 MB), to `root` or ~/data/fashion-mnist."""

    limit: Annotated[int, Field(ge=1)] | None = None
    """At most this many images of a split, the first ones. None: all."""


def sources(config: Config) -> list[Path]:
    """What must be there before."""
    return [] if config.download else [find_folder(config)]


def find_folder(config: Config) -> Path:
    """The first that has all files, else where they would be fetched to."""
    folders = list_folders(config)
    return next((folder for folder in folders if not find_missing(folder)), folders[-1])


def list_folders(config: Config) -> list[Path]:
    return [Path(root).expanduser() for root in ([config.root] if config.root else [DEBIAN, HOME])]


def build(config: Config, split: Literal["train", "test"]) -> ImageSet:
    """Raises DataError if a file is missing or broken."""
    folder = find_folder(config)
    if config.download:
        for name in find_missing(folder):
            fetch_file(f"{URL}/{name}.gz", MD5[name], folder / f"{name}.gz")
    if missing := [name for name in find_missing(folder) if name.startswith(STEMS[split])]:
        raise DataError(
            f"Fashion-MNIST: no {missing[0]}[.gz] in {' or '.join(map(str, list_folders(config)))}; "
            f"set data.download=true or run: apt-get install dataset-fashion-mnist"
        )
    return read_split(folder, split, config.limit)


def find_missing(folder: Path) -> list[str]:
    """Names of the four files that are in the folder neither raw nor as .gz."""
    return [name for name in MD5 if not ((folder / name).is_file() or (folder / f"{name}.gz").is_file())]


def read_split(folder: Path, split: Literal["train", "test"], limit: int | None) -> ImageSet:
    """The first `limit` images of a split; its two files must be there."""
    images_path, images_NHW = read_idx(folder, f"{STEMS[split]}-images-idx3-ubyte")
    labels_path, labels_N = read_idx(folder, f"{STEMS[split]}-labels-idx1-ubyte")
    if images_NHW.ndim != 3 or labels_N.shape != images_NHW.shape[:1]:
        raise DataError(f"{images_path} of shape {images_NHW.shape} does not go with {labels_path} of {labels_N.shape}")
    if len(labels_N) and labels_N.max() >= len(CLASSES):
        raise DataError(f"{labels_path}: label {labels_N.max()}, should be 0 to {len(CLASSES) - 1}")
    images = torch.from_numpy(images_NHW[:limit, None].copy())
    return ImageSet(images, torch.from_numpy(labels_N[:limit].astype(np.int64)), CLASSES, MEAN, STD)


def read_idx(folder: Path, name: str) -> tuple[Path, NDArray[np.uint8]]:
    """The path and the array of one file of unsigned bytes; raises DataError if it is damaged."""
    path = folder / name if (folder / name).is_file() else folder / f"{name}.gz"
    content = read_unpacked(path)
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise DataError(f"{path}: not an IDX file of bytes: it starts with {content[:4].hex(' ')}")
    start = 4 + 4 * content[3]
    shape = tuple(int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4))
    if len(content) != start + math.prod(shape):
        raise DataError(
            f"{path}: {len(content)} bytes for values of shape {shape}, should be {start + math.prod(shape)}"
        )
    return path, np.frombuffer(content, np.uint8, offset=start).reshape(shape)
