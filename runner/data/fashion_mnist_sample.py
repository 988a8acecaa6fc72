"""The first 10,000 training and 2,000 test images of Fashion-MNIST, shipped with the repository.

Small enough to try anything out without fetching data; experiments/samples/fashion_mnist/README.md says where
the files come from.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from runner.data.fashion_mnist import STEMS, find_missing, read_split
from runner.dataset import ImageSet
from runner.errors import DataError
from runner.schema import Options

SHIPPED = Path(__file__).parents[2] / "experiments" / "samples" / "fashion_mnist"


class Config(Options):
    root: str | None = None
    """Folder with the four files. None: experiments/samples/fashion_mnist of this repository."""

    limit: Annotated[int, Field(ge=1)] | None = None
    """At most this many images of a split, the first ones. None: all."""


def sources(config: Config) -> list[Path]:
    """What must be there before."""
    return [Path(config.root).expanduser() if config.root else SHIPPED]


def build(config: Config, split: Literal["train", "test"]) -> ImageSet:
    """Raises DataError if the files are not there or broken."""
    (folder,) = sources(config)
    if missing := [name for name in find_missing(folder) if name.startswith(STEMS[split])]:
        raise DataError(
            f"Fashion-MNIST sample: no {missing[0]}[.gz] in {folder}; it comes with a checkout of the "
            "repository (pip install -e .): set data.root to its experiments/samples/fashion_mnist"
        )
    return read_split(folder, split, config.limit)
