"""One logistic regression a class on frozen features: for samples with any number of classes.

Shapes: N samples, C classes.
"""

import numpy as np
import torch
from pydantic import Field

from runner.evaluation._multilabel import report
from runner.evaluation._probe import class_matrix
from runner.features import FrozenFeatures
from runner.schema import Options


class Config(Options):
    C: float = Field(default=0.01, gt=0)
    """Inverse strength of the L2 penalty, as in scikit-learn, on features standardised by the training samples."""

    cutoff: float = Field(default=0.5, ge=0, le=1)
    """A class is predicted from this probability on."""

    max_iterations: int = Field(default=2000, ge=1)
    """scikit-learn warns when the solver stops here before it has converged."""


def run(
    config: Config, train: FrozenFeatures, test: FrozenFeatures, device: torch.device, seed: int
) -> dict[str, float]:
    """Areas and figures at the cut-off on `test`, as means over classes, pooled (micro), and areas by class number.

    Both kinds of a class weigh the same in its regression. Classes without positives in `test` count in no mean;
    one without positives in `train` has probability 0. The solver draws nothing: device and seed are not needed.
    """
    from sklearn.linear_model import LogisticRegression  # heavy, and only needed here
    from sklearn.preprocessing import StandardScaler

    known_NC, wanted_NC = class_matrix(train.labels, test.labels)
    scaler = StandardScaler().fit(train.features.double().cpu().numpy())
    rows = [scaler.transform(split.features.double().cpu().numpy()) for split in (train, test)]
    # Where a class has one kind of sample only, nothing is to be learnt: its probability is that kind.
    scores_NC = np.tile(known_NC[:1].astype(np.float64), (len(wanted_NC), 1))
    for label in np.flatnonzero(known_NC.any(0) & ~known_NC.all(0)):
        model = LogisticRegression(C=config.C, class_weight="balanced", max_iter=config.max_iterations)
        model.fit(rows[0], known_NC[:, label])
        scores_NC[:, label] = model.predict_proba(rows[1])[:, 1]
    names = [str(label) for label in range(known_NC.shape[1])]
    return report(scores_NC, wanted_NC, names, cutoffs=[config.cutoff]).summary(config.cutoff)
