"""STL-10 (Coates et al. 2011): 96 x 96, colour, 10 classes; 5,000 labelled training images, 8,000 test images and
100,000 without labels, which also show other classes.

Reads the official layout stl10_binary: {train,test,unlabeled}_X.bin with 3 x 96 x 96 pixel bytes an image, each plane
column by column; {train,test}_y.bin with labels 1 to 10; class_names.txt; fold_indices.txt.

Shapes: N images, C channels, H x W pixels.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from runner.dataset import ImageSet, choose
from runner.decoded import cached_pixels, map_pixels
from runner.download import fetch_archive
from runner.errors import DataError
from runner.schema import Options

URL = "http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz"
MD5 = "91f7769df0f17e558f3565bffb0c7dfb"

FOLDER = "stl10_binary"
NAMES = (
    *("train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin"),
    *("unlabeled_X.bin", "fold_indices.txt", "class_names.txt"),
)
SHAPE = 3, 96, 96
PIXELS = 3 * 96 * 96
BLOCK_IMAGES = 1024
# over all pixels of the 5,000 labelled training images
MEAN = 0.4467, 0.4398, 0.4066
STD = 0.2603, 0.2566, 0.2713

Count = Annotated[int, Field(ge=1)]


class Config(Options):
    root: str = "~/data"
    """Folder that holds stl10_binary."""

    download: bool = False
    """Fetch what is missing from the official address (2.6 GB)."""

    train_split: Literal["unlabeled", "train", "train+unlabeled"] = "unlabeled"
    """What to train on. With unlabelled images all labels are hidden, and probes are fitted on the labelled ones."""

    fold: Annotated[int, Field(ge=0, le=9)] | None = None
    """Of the labelled training images only the 1,000 of this official fold. None: all 5,000."""

    per_class: Count | None = None
    """Of the labelled training images at most this many of each class, the first ones. None: all."""

    limit: Count | None = None
    """At most this many images of a split, the first ones. None: all."""

    cache: str | None = None
    """Folder for the pixels of train+unlabeled in one file (2.9 GB). None: `root`."""


def sources(config: Config) -> list[Path]:
    """What must be there before."""
    return [] if config.download else [Path(config.root).expanduser() / FOLDER]


def build(config: Config, split: Literal["train", "test"]) -> ImageSet:
    """Raises DataError if a file is missing or broken."""
    folder = Path(config.root).expanduser() / FOLDER
    if config.download:
        fetch_archive(URL, MD5, folder, NAMES)
    classes = tuple(find(folder, "class_names.txt").read_text(encoding="utf-8").splitlines())
    if split == "train" and config.train_split == "train":
        return read_labelled_train(config, folder, classes)
    if split == "train":
        return ImageSet(read_unlabelled(config, folder)[: config.limit], None, classes, MEAN, STD)
    images, labels = read_labelled(folder, "test", len(classes))
    return ImageSet(images[: config.limit], labels[: config.limit], classes, MEAN, STD)


def build_probe(config: Config) -> ImageSet | None:
    """The labelled images to fit probes on where the training split has none; None where it has."""
    return None if config.train_split == "train" else build(config.model_copy(update={"train_split": "train"}), "train")


def find(folder: Path, name: str) -> Path:
    """The path of a file of the data set, if it is there."""
    if (folder / name).is_file():
        return folder / name
    raise DataError(
        f"STL-10: no {name} in {folder}; set data.download=true or run: curl -L {URL} | tar xz -C {folder.parent}"
    )


def map_images(path: Path) -> Tensor:
    """(N, C, H, W) uint8 over the file: nothing is copied, so the planes stay column by column in memory."""
    size = path.stat().st_size
    if size == 0 or size % PIXELS:
        raise DataError(f"{path}: {size} bytes are no whole number of images of {PIXELS}; it is cut off")
    return map_pixels(path, (size // PIXELS, *SHAPE)).transpose(2, 3)


def read_labelled(folder: Path, part: Literal["train", "test"], classes: int) -> tuple[Tensor, Tensor]:
    """The images and their labels, counted from 0."""
    images, path = map_images(find(folder, f"{part}_X.bin")), find(folder, f"{part}_y.bin")
    labels = np.fromfile(path, np.uint8)
    if len(labels) != len(images):
        raise DataError(f"{path}: {len(labels)} labels for the {len(images)} images of {part}_X.bin")
    if labels.min() < 1 or labels.max() > classes:
        raise DataError(f"{path}: labels from {labels.min()} to {labels.max()}, should be 1 to {classes}")
    return images, torch.from_numpy(labels.astype(np.int64) - 1)


def read_labelled_train(config: Config, folder: Path, classes: tuple[str, ...]) -> ImageSet:
    """The images that `fold`, `per_class` and `limit` leave."""
    images, labels = read_labelled(folder, "train", len(classes))
    if config.fold is not None:
        rows = read_fold(find(folder, "fold_indices.txt"), config.fold, len(images))
        images, labels = images[rows], labels[rows]
    if config.per_class is not None:
        rows = torch.tensor(choose(labels.tolist(), config.per_class, None))
        images, labels = images[rows], labels[rows]
    return ImageSet(images[: config.limit], labels[: config.limit], classes, MEAN, STD)


def read_fold(path: Path, fold: int, images: int) -> Tensor:
    """Row numbers of one fold: a line of the file, counted from 0."""
    lines = path.read_text(encoding="utf-8").splitlines()
    try:
        rows = torch.tensor([int(word) for word in lines[fold].split()])
    except (IndexError, ValueError) as error:
        raise DataError(f"{path}: line {fold + 1} is no list of row numbers: {error}") from error
    if len(rows) == 0 or rows.min() < 0 or rows.max() >= images:
        raise DataError(f"{path}: line {fold + 1} should hold row numbers from 0 to {images - 1}")
    return rows


def read_unlabelled(config: Config, folder: Path) -> Tensor:
    """(N, C, H, W) uint8: the unlabelled images, or after all labelled training images where these are wanted, too."""
    unlabelled = map_images(find(folder, "unlabeled_X.bin"))
    if config.train_split == "unlabeled":
        return unlabelled
    train = map_images(find(folder, "train_X.bin"))
    N = len(train) + len(unlabelled)

    def blocks(start: int) -> Iterator[NDArray[np.uint8]]:
        for part, first in (train, start), (unlabelled, max(0, start - len(train))):
            for row in range(first, len(part), BLOCK_IMAGES):
                yield part[row : row + BLOCK_IMAGES].numpy()

    cache = Path(config.cache).expanduser() if config.cache else folder.parent
    source = f"{len(train)} images of train_X.bin, {len(unlabelled)} of unlabeled_X.bin"
    return cached_pixels(cache / f"{FOLDER}.train+unlabeled.{N}.pixels", (N, *SHAPE), source, blocks)
