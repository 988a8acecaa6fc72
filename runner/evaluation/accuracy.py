"""How often the method's own classifier is right: evaluation of supervised training, nothing is fitted.

Shapes: N samples, C classes.
"""

import torch

from runner.errors import ConfigError, DataError
from runner.evaluation._probe import accuracies
from runner.explain import OptionError
from runner.facts import Facts
from runner.features import FrozenFeatures
from runner.schema import Options

FITS = False
"""Looks at the test split alone."""


class Config(Options):
    pass


def check(config: Config, train: Facts | None, test: Facts) -> None:
    """Raises OptionError for a method without a classifier, or samples without one label each."""
    if test.outputs is not None and "scores" not in test.outputs:
        raise OptionError("", "needs a method that predicts classes, and this one does not; choose linear or knn")
    test.need_one_label()
    test.need_classes_of(train)


def run(
    config: Config, train: FrozenFeatures | None, test: FrozenFeatures, device: torch.device, seed: int
) -> dict[str, float]:
    """top1 and top5 accuracy on `test` of the scores that the method predicts.

    Raises ConfigError for a method without a classifier, DataError without one label a sample.
    """
    if "scores" not in test.others:
        raise ConfigError("evaluate.probes: accuracy needs a method that predicts classes; use linear or knn")
    if test.labels is None or test.labels.ndim != 1:
        raise DataError("accuracy compares with one label a sample, and these samples have none or several")
    return accuracies(test.others["scores"], test.labels)
