"""What new_name holds, in one line, and where it comes from: here images in two files of NumPy arrays.

ROOT/train.npz and ROOT/test.npz have `images`, uint8, (N, H, W) or (N, H, W, C), and `labels`, whole numbers from 0;
`numpy.savez("train.npz", images=images, labels=labels)` writes one.

Works as it is, on a few made-up images until `root` is given. What to change: CLASSES, MEAN, STD, and `read`.

Shapes: N images, C channels, H x W pixels.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from runner.dataset import ImageSet
from runner.errors import DataError
from runner.schema import Options

LABELS = "one"
"""Each sample has one; "none" for images without labels."""

CLASSES = ("dark", "light")
MEAN, STD = (0.5,), (0.25,)
"""Of the training images, for each channel, with pixels from 0 to 1."""


class Config(Options):
    """The options in the experiment file, each with a type, its bounds, a default and a line of text."""

    root: str | None = None
    """Folder with train.npz and test.npz; None: made-up images."""

    limit: int | None = Field(None, ge=1)
    """At most this many images of a split, the first ones. None: all."""


def build(config: Config, split: Literal["train", "test"]) -> ImageSet:
    """One split. Raises DataError, in one line, if its file is missing or is not what it should be."""
    images, labels = read(Path(config.root).expanduser() / f"{split}.npz") if config.root else make_up(split)
    images_NHWC = images if images.ndim == 4 else images[..., None]
    images_NCHW = np.ascontiguousarray(images_NHWC[: config.limit].transpose(0, 3, 1, 2))
    labels_N = torch.from_numpy(labels[: config.limit].astype(np.int64))
    return ImageSet(torch.from_numpy(images_NCHW), labels_N, CLASSES, MEAN, STD)


def read(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The arrays of one file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            images, labels = file["images"], file["labels"]
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}; it should hold `images` and `labels`") from error
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or labels.shape != images.shape[:1]:
        raise DataError(f"{path}: images {images.dtype} {images.shape} do not go with labels {labels.shape}")
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(CLASSES):
        raise DataError(f"{path}: labels from {labels.min()} to {labels.max()}, should be 0 to {len(CLASSES) - 1}")
    return images, labels


def make_up(split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """To be deleted once there are files."""
    random = np.random.default_rng(["train", "test"].index(split))
    labels = np.arange(96) % 2
    images = random.integers(0, 160, (96, 16, 16)) + 95 * labels[:, None, None]
    return images.astype(np.uint8), labels
