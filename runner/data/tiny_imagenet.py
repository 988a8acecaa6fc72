"""Tiny ImageNet (CS231n, Stanford 2015): 100,000 training and 10,000 validation images, 64 x 64, 200 classes.

Reads the official layout tiny-imagenet-200: wnids.txt, words.txt, train/<wnid>/images/*.JPEG, val/images/*.JPEG and
val/val_annotations.txt. The official test images have no labels, so the split "test" is the validation set.
Classes are numbered in the order of wnids.txt; images of classes that are not in it are left out.
"""

from pathlib import Path
from typing import Literal

from runner.data import _folder
from runner.data._folder import FolderConfig, Listing, list_names, read_images, read_lines
from runner.dataset import ImageSet
from runner.download import fetch_tree
from runner.errors import DataError

URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"

FOLDER = "tiny-imagenet-200"
SIZE = 64
# over all pixels of the 100,000 training images
MEAN = 0.4802, 0.4481, 0.3975
STD = 0.2770, 0.2691, 0.2821


class Config(FolderConfig):
    root: str = "~/data"
    """Folder that holds tiny-imagenet-200."""

    download: bool = False
    """Fetch the folder from the official address if it is not there (250 MB)."""


def sources(config: Config) -> list[Path]:
    """What must be there before."""
    return [] if config.download else [Path(config.root).expanduser() / FOLDER]


def build(config: Config, split: Literal["train", "test"]) -> ImageSet:
    """Raises DataError if a file is missing or broken."""
    folder = Path(config.root).expanduser() / FOLDER
    if config.download:
        fetch_tree(URL, MD5, folder)
    wnids = [line.strip() for line in read_lines(find(folder / "wnids.txt", folder))]
    words = dict(line.split("\t", 1) for line in read_lines(find(folder / "words.txt", folder)) if "\t" in line)
    listing = list_train(folder, wnids) if split == "train" else list_val(folder, wnids)
    images, labels = read_images(config, folder, split, listing, SIZE)
    return ImageSet(images, labels, tuple(words.get(wnid, wnid).strip() for wnid in wnids), MEAN, STD)


def find(path: Path, folder: Path) -> Path:
    command = f"curl -LO {URL} && unzip -o {FOLDER}.zip -d {folder.parent}"
    return _folder.find(path, folder, "Tiny ImageNet", command)


def list_train(folder: Path, wnids: list[str]) -> Listing:
    """All images of a class after those of the class before."""
    listing = Listing([], [])
    for label, wnid in enumerate(wnids):
        where = find(folder / "train" / wnid / "images", folder)
        names = list_names(where, ".JPEG")
        if not names:
            raise DataError(f"Tiny ImageNet: no .JPEG in {where}; unpack the archive again")
        listing.names.extend(f"train/{wnid}/images/{name}" for name in names)
        listing.labels.extend([label] * len(names))
    return listing


def list_val(folder: Path, wnids: list[str]) -> Listing:
    """In the order of val_annotations.txt, whose lines are a file name, a wnid and a box, between tabs."""
    path = find(folder / "val" / "val_annotations.txt", folder)
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    listing = Listing([], [])
    for line in read_lines(path):
        name, tab, rest = line.partition("\t")
        if not tab:
            raise DataError(f"{path}: {line[:40]!r} is no file name and wnid with a tab between")
        wnid = rest.split("\t")[0].strip()
        if wnid in label_of:
            listing.names.append(f"val/images/{name}")
            listing.labels.append(label_of[wnid])
    if not listing.names:
        raise DataError(f"{path}: has no image of a class in wnids.txt")
    return listing
