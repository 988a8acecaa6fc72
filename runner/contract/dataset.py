"""What every data set keeps.

Shapes: N samples, C channels, H x W pixels.
"""

from collections.abc import Mapping
from typing import Any

import torch

from runner import named
from runner.contract.surroundings import no_global_draws, resolve, undisturbed
from runner.dataset import ImageSet, Records, Split
from runner.trial_data import build_split, check_alike, describe_data, tokenizer_of


def check_dataset(config: Mapping[str, Any]) -> None:
    """Both splits are what the data set says it gives, the same at every look, and fit together."""
    name, options = resolve("data", config)
    with undisturbed(), no_global_draws(name, of_torch=True):
        train = build_split(name, options, "train", None)
        test, again = (build_split(name, options, "test", tokenizer_of(train)) for _ in range(2))
    kind = {"images": ImageSet, "records": Records}[named.kind_of("data", name)]
    for split, data in (("train", train), ("test", test)):
        where = f"{name}, {split}"
        assert isinstance(data, kind), f"{where}: gives a {type(data).__name__}, should be {kind.__name__}"
        assert len(data) > 0, f"{where}: is empty"
        (_check_images if isinstance(data, ImageSet) else _check_records)(where, data)
        _check_labels(where, data, getattr(named.load("data", name), "LABELS", None))
        ids_B = torch.tensor([len(data) - 1, 0])
        for key, column in data.subset(ids_B).take(torch.tensor([0, 1])).items():
            assert torch.equal(column, data.take(ids_B)[key]), f"{where}: `subset` and `take` give other {key}"
    assert describe_data(test) == describe_data(again), f"{name}: is not the same at a second look"
    assert train.classes == test.classes, f"{name}: the splits have other classes, or another order of them"
    check_alike(name, test, train)


def _check_images(where: str, data: Split) -> None:
    assert isinstance(data, ImageSet)
    images = data.images
    assert images.dtype == torch.uint8, f"{where}: images are {images.dtype}, should be uint8"
    assert images.ndim == 4, f"{where}: images of shape {tuple(images.shape)}, should be (N, C, H, W)"
    channels = images.shape[1]
    assert channels in (1, 3), f"{where}: {channels} channels; views are made of 1 or 3"
    assert len(data.mean) == len(data.std) == channels, f"{where}: mean and std need one number for each channel"
    assert all(0 <= mean <= 1 for mean in data.mean), f"{where}: mean {data.mean} is not of pixels scaled to 0..1"
    assert all(0 < std <= 1 for std in data.std), f"{where}: std {data.std} is not of pixels scaled to 0..1"


def _check_records(where: str, data: Split) -> None:
    assert isinstance(data, Records)
    lengths = {key: len(column) for key, column in [*data.columns.items(), *data.lengths.items(), *data.texts.items()]}
    assert len(set(lengths.values())) == 1, f"{where}: columns of unequal lengths: {lengths}"
    strangers = sorted(set(data.lengths) - set(data.columns))
    assert not strangers, f"{where}: lengths of {strangers}, which are no columns"
    for key in data.lengths:
        top = int(data.columns[key].max())
        assert top < data.vocabulary, f"{where}: {key} has token id {top}, the vocabulary {data.vocabulary}"


def _check_labels(where: str, data: Split, declared: str | None) -> None:
    labels = data.labels
    found = "none" if labels is None else "one" if labels.ndim == 1 else "several"
    assert declared in (None, found), f"{where}: LABELS says {declared!r}, but samples have {found}"
    if labels is None:
        return
    assert len(labels) == len(data), f"{where}: {len(labels)} labels for {len(data)} samples"
    if found == "several":
        assert labels.shape[1] == len(data.classes), f"{where}: {labels.shape[1]} labels, {len(data.classes)} classes"
        assert bool(((labels == 0) | (labels == 1)).all()), f"{where}: labels are not all 0 or 1"
        return
    assert labels.dtype == torch.int64, f"{where}: labels are {labels.dtype}, should be int64"
    low, high, classes = int(labels.min()), int(labels.max()), len(data.classes)
    assert low >= 0 and high < classes, f"{where}: labels from {low} to {high}, should be 0 to {classes - 1}"
