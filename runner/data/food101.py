"""Food-101 (Bossard et al. 2014): 75,750 training and 25,250 test photos of various sizes, 101 classes.

Reads the official layout food-101: images/<class>/<id>.jpg and meta/{classes.txt,train.json,test.json}, where the
JSON files map each class to its <class>/<id>. Classes are numbered in the order of classes.txt.
"""

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from runner.data import _folder
from runner.data._folder import FolderConfig, Listing, read_images, read_lines
from runner.dataset import ImageSet
from runner.download import fetch_tree
from runner.errors import DataError

URL = "http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz"
MD5 = "85eeb15f3717b99a5da872d97d918f87"

FOLDER = "food-101"
# ImageNet's, as is usual for photos
MEAN = 0.485, 0.456, 0.406
STD = 0.229, 0.224, 0.225


class Config(FolderConfig):
    root: str = "~/data"
    """Folder that holds food-101."""

    download: bool = False
    """Fetch the folder from the official address if it is not there (5 GB)."""

    size: Annotated[int, Field(ge=8)] = 192
    """Pixels of a side: images are resized by their shorter side and cropped to their centre. At 192 the decoded
    images take 11 GB."""


def sources(config: Config) -> list[Path]:
    """What must be there before."""
    return [] if config.download else [Path(config.root).expanduser() / FOLDER]


def build(config: Config, split: Literal["train", "test"]) -> ImageSet:
    """Raises DataError if a file is missing or broken."""
    folder = Path(config.root).expanduser() / FOLDER
    if config.download:
        fetch_tree(URL, MD5, folder)
    classes = [line.strip() for line in read_lines(find(folder / "meta" / "classes.txt", folder))]
    listing = read_listing(find(folder / "meta" / f"{split}.json", folder), classes)
    images, labels = read_images(config, folder, split, listing, config.size)
    return ImageSet(images, labels, tuple(classes), MEAN, STD)


def find(path: Path, folder: Path) -> Path:
    return _folder.find(path, folder, "Food-101", f"curl -L {URL} | tar xz -C {folder.parent}")


def read_listing(path: Path, classes: list[str]) -> Listing:
    """All images of a class after those of the class before, in the order of the file."""
    try:
        ids_of = json.loads(path.read_text(encoding="utf-8"))
        names = {name: [f"images/{image}.jpg" for image in ids_of[name]] for name in classes}
    except KeyError as error:
        raise DataError(f"{path}: has no class {error}, which classes.txt has") from error
    except (ValueError, TypeError) as error:
        raise DataError(f"{path}: does not map classes to lists of images: {error}") from error
    labels = [label for label, name in enumerate(classes) for _ in names[name]]
    return Listing([image for name in classes for image in names[name]], labels)
