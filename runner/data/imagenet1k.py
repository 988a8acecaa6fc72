"""ImageNet-1k (ILSVRC2012; Russakovsky et al. 2015): 1,281,167 training and 50,000 validation photos, 1,000 classes.

Reads train/<wnid>/*.JPEG with either val/<wnid>/*.JPEG or, as the official archive unpacks, val/*.JPEG together
with ILSVRC2012_devkit_t12/data/{meta.mat,ILSVRC2012_validation_ground_truth.txt}. The official test images have no
labels, so the split "test" is the validation set. Classes are the folders of train/, sorted, so a part of the classes
is a data set, too: validation images of other classes are left out.

The official training archive holds a tar of each class: `for t in *.tar; do mkdir ${t%.tar}; tar xf $t -C ${t%.tar};
done` unpacks them as they are wanted here.
"""

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from runner.data._folder import FolderConfig, Listing, list_names, read_images, read_lines
from runner.dataset import ImageSet
from runner.errors import DataError

SITE = "https://image-net.org/download-images"
DEVKIT = "ILSVRC2012_devkit_t12"
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"

# what nearly all published encoders were trained with
MEAN = 0.485, 0.456, 0.406
STD = 0.229, 0.224, 0.225


class Config(FolderConfig):
    root: str = "~/data/imagenet"
    """Folder with train and val. There is no download: the licence wants every user to ask for the images."""

    size: Annotated[int, Field(ge=8)] = 224
    """Pixels of a side: images are resized by their shorter side and cropped to their centre. At 224 the decoded
    images take 200 GB."""


def sources(config: Config) -> list[Path]:
    """What must be there before."""
    return [Path(config.root).expanduser() / "train"]


def build(config: Config, split: Literal["train", "test"]) -> ImageSet:
    """Raises DataError if a file is missing or broken."""
    root = Path(config.root).expanduser()
    wnids = list_folders(root / "train")
    if not wnids:
        raise missing("train/<wnid>/*.JPEG", root)
    listing = list_by_folder(root, "train" if split == "train" else "val", wnids)
    if split == "test" and not listing.names:
        listing = list_flat_val(root, wnids)
    images, labels = read_images(config, root, split, listing, config.size)
    return ImageSet(images, labels, tuple(wnids), MEAN, STD)


def missing(what: str, root: Path) -> DataError:
    return DataError(
        f"ImageNet: no {what} in {root}; its licence allows no download from here: get ILSVRC2012 from {SITE} "
        "and unpack it there"
    )


def list_folders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted; none if there is no such folder."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir())


def list_by_folder(root: Path, split: str, wnids: list[str]) -> Listing:
    """All images of a class after those of the class before; none if no class has a folder."""
    listing = Listing([], [])
    there = set(list_folders(root / split)) & set(wnids)
    for label, wnid in enumerate(wnids if there else []):
        names = list_names(root / split / wnid, ".JPEG")
        if not names:
            raise missing(f"{split}/{wnid}/*.JPEG", root)
        listing.names.extend(f"{split}/{wnid}/{name}" for name in names)
        listing.labels.extend([label] * len(names))
    return listing


def list_flat_val(root: Path, wnids: list[str]) -> Listing:
    """In the order of the file names, which is that of the ground truth."""
    names = list_names(root / "val", ".JPEG")
    if not names:
        raise missing("val/<wnid>/*.JPEG nor val/*.JPEG", root)
    path = root / DEVKIT / "data" / GROUND_TRUTH
    if not path.is_file():
        raise missing(f"{DEVKIT}/data/{GROUND_TRUTH}, which val/*.JPEG without folders needs,", root)
    ids = [line.strip() for line in read_lines(path)]
    if len(ids) != len(names):
        raise DataError(f"{path}: has {len(ids)} lines for {len(names)} images in {root / 'val'}")
    wnid_of = read_meta(path.with_name("meta.mat"), root)
    label_of = {str(number): wnids.index(wnid) for number, wnid in wnid_of.items() if wnid in wnids}
    kept = [(f"val/{name}", label_of[number]) for name, number in zip(names, ids, strict=True) if number in label_of]
    if not kept:
        raise DataError(f"{path}: has no image of a class in {root / 'train'}")
    return Listing([name for name, _ in kept], [label for _, label in kept])


def read_meta(path: Path, root: Path) -> dict[int, str]:
    """ILSVRC2012_ID -> wnid, of the development kit."""
    from scipy.io import loadmat

    if not path.is_file():
        raise missing(f"{path.relative_to(root)}, which val/*.JPEG without folders needs,", root)
    # a damaged file can raise nearly anything
    try:
        synsets = loadmat(path, squeeze_me=True)["synsets"]
        return {int(synset["ILSVRC2012_ID"]): str(synset["WNID"]) for synset in synsets}
    except Exception as error:
        raise DataError(f"{path}: is not the meta.mat of {DEVKIT}: {error}") from error
