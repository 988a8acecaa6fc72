"""What every probe does with its features and its scores.

Shapes: N samples, C classes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from runner.dataset import Records
from runner.errors import ConfigError, DataError
from runner.explain import OptionError
from runner.facts import Facts
from runner.features import FrozenFeatures


class Labelled(NamedTuple):
    """Features of length 1 and the one class of each sample."""

    features: Tensor
    """(N, D) float32."""

    labels: Tensor
    """(N,) int64."""


def unit_rows(split: FrozenFeatures, device: torch.device) -> Labelled:
    """Features of length 1, and their labels, on `device`; raises DataError without one label a sample."""
    if split.labels is None or split.labels.ndim != 1:
        found = "none" if split.labels is None else "several"
        raise DataError(f"this probe fits one label to each sample, and these samples have {found}")
    return Labelled(F.normalize(split.features.to(device), dim=1), split.labels.to(device))


def count_classes(train: Labelled, test: Labelled) -> int:
    """Classes are numbered from 0 to the largest label of either split.

    Raises DataError if the training split holds fewer than two, which leaves nothing to tell apart.
    """
    if len(train.labels) == 0 or bool((train.labels == train.labels[0]).all()):
        raise DataError(f"a probe needs at least 2 classes to train on; {len(train.labels)} samples hold fewer")
    return int(torch.cat([train.labels, test.labels]).max()) + 1


def check_labels(train: Facts | None, test: Facts) -> None:
    """Raise OptionError for samples without one label each, of other classes, or all training samples of one."""
    for facts in filter(None, (train, test)):
        facts.need_one_label()
    test.need_classes_of(train)
    if train is not None and train.data is not None and train.data.labels is not None:
        labels_N = train.data.labels
        if bool((labels_N == labels_N[:1]).all()):
            raise OptionError("", f"needs at least 2 classes to train on; {len(labels_N)} samples hold fewer")


def accuracies(scores_NC: Tensor, labels_N: Tensor) -> dict[str, float]:
    """Share of the samples whose class has the highest score (top1), or one of the five highest (top5).

    A score of -inf never counts. With five classes or fewer there is no top5: it would always be 1.
    """
    # A stable sort, so that of equal scores the lower class wins on every device.
    scores_NC, order_NC = scores_NC.sort(dim=1, descending=True, stable=True)
    hits_NK = ((order_NC == labels_N[:, None]) & (scores_NC > -torch.inf))[:, :5]
    found = {"top1": hits_NK[:, 0].double().mean().item()}
    if scores_NC.shape[1] > 5:
        found["top5"] = hits_NK.any(dim=1).double().mean().item()
    return found


def class_matrices(train: FrozenFeatures, test: FrozenFeatures) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(N, C) which sample has which class, of the labels of both splits: (N,) numbers, or (N, C) not 0 for yes.

    C counts the classes of the data, also those that no sample has. Raises DataError for samples without labels.
    """
    known, wanted = train.labels, test.labels
    if known is None or wanted is None:
        raise DataError("this probe needs labels, and these samples have none")
    if known.ndim == 1:
        named = 0 if test.data is None else len(test.data.classes)
        classes = max(named, int(torch.cat([known, wanted]).max()) + 1)
        known, wanted = F.one_hot(known, classes), F.one_hot(wanted, classes)
    return (known != 0).cpu().numpy(), (wanted != 0).cpu().numpy()


def take_embedding(split: FrozenFeatures, name: str) -> Tensor:
    """(N, D) `features`, or another output of the method; raises ConfigError that lists them if there is none."""
    found = {"features": split.features, **split.others}
    if name not in found:
        raise ConfigError(f"evaluate.probes: the method gives no {name!r}; it gives {', '.join(found)}")
    return found[name]


def take_texts(split: FrozenFeatures, name: str) -> tuple[str, ...]:
    """One string a sample; raises ConfigError that lists the texts of the data set if there are no such ones."""
    texts = split.data.texts if isinstance(split.data, Records) else {}
    if name not in texts:
        problem = f"it has {', '.join(texts)}" if texts else "it has no texts"
        raise ConfigError(f"evaluate.probes: the data set has no text {name!r}; {problem}")
    return texts[name]


def number_texts(*columns: Sequence[str]) -> list[Tensor]:
    """(N,) int64 for each of the columns: equal texts have equal numbers."""
    place = {text: index for index, text in enumerate(sorted({text for column in columns for text in column}))}
    return [torch.tensor([place[text] for text in column], dtype=torch.int64) for column in columns]
