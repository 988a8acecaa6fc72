"""Samples with any number of classes: one logistic regression a class on frozen features, and the method's own heads.

Shapes: N samples, C classes, L residues.
"""

from collections.abc import Sequence

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from runner.evaluation._multilabel import CUTOFFS, Choices, Floats, report
from runner.evaluation._probe import class_matrices
from runner.evaluation._proteins import motif_accuracy, pool_proteins
from runner.facts import Facts
from runner.features import FrozenFeatures
from runner.schema import Options


class Config(Options):
    C: float = Field(default=0.01, gt=0)
    """Inverse strength of the L2 penalty, as in scikit-learn, on features standardised by the training samples."""

    cutoff: float = Field(default=0.5, ge=0, le=1)
    """A class is predicted from this probability on."""

    max_iterations: int = Field(default=2000, ge=1)
    """scikit-learn warns when the solver stops here before it has converged."""

    every_cutoff: bool = False
    """Figures of every class at the cut-offs 0.1 to 0.9, too, for the method's own classifier."""


def check(config: Config, train: Facts | None, test: Facts) -> None:
    """Raises OptionError for samples without labels."""
    for facts in filter(None, (train, test)):
        facts.need_labels()
    test.need_classes_of(train)


def run(
    config: Config, train: FrozenFeatures, test: FrozenFeatures, device: torch.device, seed: int
) -> dict[str, float]:
    """Areas and figures at the cut-off on `test`, as means over classes, pooled (micro), and areas by class.

    Both kinds of a class weigh the same in its regression. Classes without positives in `test` count in no mean;
    one without positives in `train` has probability 0. Where the method has `projections`, the same of regressions
    on them as projections_*; where it has a classifier of its own (`scores`, logits), the same of its probabilities
    as head_*, with the figures of every class; where it scores residues (`motif_scores`), cs_acc_*: how often the
    best residue is the marked one. Fragments count as one protein. The solver draws nothing: device and seed are
    not needed.
    """
    found_sites = motif_accuracy(test)
    train, test = pool_proteins(train), pool_proteins(test)
    known_NC, wanted_NC = class_matrices(train, test)
    names = _class_names(test, wanted_NC.shape[1])
    found: dict[str, float] = {}
    spaces = {"": (train.features, test.features)}
    if "projections" in test.others:
        spaces["projections_"] = train.others["projections"], test.others["projections"]
    for prefix, (train_ND, test_ND) in spaces.items():
        scores_NC = _fit_and_score(config, train_ND, test_ND, known_NC)
        figures = report(scores_NC, wanted_NC, names, cutoffs=[config.cutoff]).summary(config.cutoff)
        found |= {prefix + name: value for name, value in figures.items()}
    if "scores" in test.others:
        scores_NC = test.others["scores"].double().sigmoid().cpu().numpy()
        cutoffs = sorted({config.cutoff, *(CUTOFFS if config.every_cutoff else ())})
        head = report(scores_NC, wanted_NC, names, cutoffs)
        figures = head.summary(config.cutoff) | head.by_class(config.cutoff)
        for cutoff in cutoffs if config.every_cutoff else ():
            figures |= {f"{name}_at_{cutoff:g}": value for name, value in head.by_class(cutoff).items()}
        found |= {f"head_{name}": value for name, value in figures.items()}
    if found_sites:
        found["cs_acc_macro"] = float(np.mean(list(found_sites.values())))
    return found | {f"cs_acc_{name}": value for name, value in found_sites.items()}


def _fit_and_score(config: Config, train_ND: Tensor, test_ND: Tensor, known_NC: Choices) -> Floats:
    """(N, C) probabilities of the test samples."""
    from sklearn.linear_model import LogisticRegression  # heavy, and only needed here
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(train_ND.double().cpu().numpy())
    rows = [scaler.transform(features_ND.double().cpu().numpy()) for features_ND in (train_ND, test_ND)]
    # Where a class has one kind of sample only, nothing is to be learnt: its probability is that kind.
    scores_NC = np.tile(known_NC[:1].astype(np.float64), (len(test_ND), 1))
    for label in np.flatnonzero(known_NC.any(0) & ~known_NC.all(0)):
        model = LogisticRegression(C=config.C, class_weight="balanced", max_iter=config.max_iterations)
        model.fit(rows[0], known_NC[:, label])
        scores_NC[:, label] = model.predict_proba(rows[1])[:, 1]
    return scores_NC


def _class_names(split: FrozenFeatures, classes: int) -> Sequence[str]:
    """Those of the data, or numbers where it has no name for every class."""
    named = () if split.data is None else split.data.classes
    return named if len(named) == classes else [str(label) for label in range(classes)]
