"""CIFAR-10 (Krizhevsky 2009): 50,000 training and 10,000 test images, 32 x 32, colour, 10 classes.

Reads both official layouts: cifar-10-batches-bin (records of one label byte and 3 x 32 x 32 pixel bytes, as they
are or packed by xz) and cifar-10-batches-py (pickled dictionaries).

Shapes: N images.
"""

import pickle
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from runner.dataset import ImageSet
from runner.download import fetch_archive
from runner.errors import DataError
from runner.schema import Options
from runner.unpacking import read_unpacked

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
MD5 = "c32a1d4ab5d03f1284b67883e8d87530"

CLASSES = "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"
# over all pixels of the 50,000 training images
MEAN = 0.4914, 0.4822, 0.4465
STD = 0.2470, 0.2435, 0.2616

BINARY, PICKLED = "cifar-10-batches-bin", "cifar-10-batches-py"
ALL_BATCHES = 1, 2, 3, 4, 5
SHAPE = 3, 32, 32
PIXELS = 3 * 32 * 32

Bytes = NDArray[np.uint8]


class Config(Options):
    root: str = "~/data"
    """Folder that holds cifar-10-batches-bin or cifar-10-batches-py."""

    download: bool = False
    """Fetch what is missing from the official address (170 MB)."""

    batches: Annotated[tuple[Annotated[int, Field(ge=1, le=5)], ...], Field(min_length=1)] = ALL_BATCHES
    """Which of the five training files to read, 10,000 images each; the others need not be there."""

    limit: Annotated[int, Field(ge=1)] | None = None
    """At most this many images of a split, the first ones. None: all."""

    test_limit: Annotated[int, Field(ge=1)] | None = None
    """The same for the test split alone, in place of `limit`. None: `limit` holds for both."""


def sources(config: Config) -> list[Path]:
    """What must be there before."""
    root = Path(config.root).expanduser()
    return [] if config.download else [root / (PICKLED if (root / PICKLED).is_dir() else BINARY)]


def build(config: Config, split: Literal["train", "test"]) -> ImageSet:
    """Raises DataError if a file is missing or broken."""
    root = Path(config.root).expanduser()
    if config.download and not (root / PICKLED).is_dir():
        names = [*(f"data_batch_{batch}.bin" for batch in ALL_BATCHES), "test_batch.bin"]
        fetch_archive(URL, MD5, root / BINARY, names)
    stems = [f"data_batch_{batch}" for batch in config.batches] if split == "train" else ["test_batch"]
    if (root / PICKLED).is_dir() and not (root / BINARY).is_dir():
        parts = [read_pickle(find(root / PICKLED / stem)) for stem in stems]
    else:
        parts = [read_records(find(root / BINARY / f"{stem}.bin")) for stem in stems]
    limit = config.test_limit if split == "test" and config.test_limit else config.limit
    pixels, labels = (np.concatenate(arrays)[:limit] for arrays in zip(*parts, strict=True))
    images = torch.from_numpy(pixels).view(-1, *SHAPE)
    return ImageSet(images, torch.from_numpy(labels.astype(np.int64)), CLASSES, MEAN, STD)


def find(path: Path) -> Path:
    """The path itself or that of the file packed by xz, whichever is there."""
    for there in path, path.with_name(f"{path.name}.xz"):
        if there.is_file():
            return there
    root = path.parent.parent
    if path.parent.is_dir():
        where = f"in {path.parent}"
    else:
        where = f"in {root}, which has neither {BINARY} nor {PICKLED}"
    raise DataError(
        f"CIFAR-10: no {path.name} {where}; set data.download=true or run: curl -L {URL} | tar xz -C {root}"
    )


def read_records(path: Path) -> tuple[Bytes, Bytes]:
    """(N, 3072) pixels and (N,) labels of one file of the binary layout."""
    content = np.frombuffer(read_unpacked(path), np.uint8)
    if len(content) == 0 or len(content) % (1 + PIXELS):
        raise DataError(f"{path}: {len(content)} bytes are no whole number of records of {1 + PIXELS}; it is cut off")
    records = content.reshape(-1, 1 + PIXELS)
    return records[:, 1:], check_labels(records[:, 0], path)


def read_pickle(path: Path) -> tuple[Bytes, Bytes]:
    """(N, 3072) pixels and (N,) labels of one file of the pickled layout."""
    try:
        with open(path, "rb") as file:
            content = ArrayUnpickler(file, encoding="latin1").load()
        pixels, labels = np.asarray(content["data"]), np.asarray(content["labels"])
    # a damaged pickle can raise nearly anything
    except Exception as error:
        raise DataError(
            f"{path}: not a CIFAR-10 batch: {' '.join(str(error).split()) or type(error).__name__}"
        ) from error
    if pixels.dtype != np.uint8 or labels.dtype.kind != "i" or pixels.shape != (*labels.shape, PIXELS):
        found = f"{pixels.dtype} pixels {pixels.shape}, {labels.dtype} labels {labels.shape}"
        raise DataError(f"{path}: not a CIFAR-10 batch: {found}")
    return pixels, check_labels(labels, path)


def check_labels(labels: NDArray[Any], path: Path) -> Bytes:
    if labels.min() < 0 or labels.max() >= len(CLASSES):
        raise DataError(f"{path}: labels from {labels.min()} to {labels.max()}, should be 0 to 9")
    return labels.astype(np.uint8)


class ArrayUnpickler(pickle.Unpickler):
    """Loads plain values and NumPy arrays: a pickle that may ask for more can run its author's code."""

    ALLOWED = {  # noqa: RUF012 - never changed
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no array needs")
        return self.ALLOWED[module, name]
