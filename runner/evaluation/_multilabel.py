"""How well scores of samples with any number of classes fit their labels.

Shapes: N samples, C classes, K cut-offs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Choices = NDArray[np.bool_]

CUTOFFS = tuple(tenth / 10 for tenth in range(1, 10))


@dataclass(frozen=True)
class MultilabelReport:
    """Per class and cut-off; nan where a figure is not defined, as for a class without any positive."""

    classes: tuple[str, ...]
    cutoffs: tuple[float, ...]
    positives: NDArray[np.int64]
    """(C,)"""

    auroc: Floats
    """(C,) area under the receiver operating characteristic; nan also for a class of positives alone."""

    auprc: Floats
    """(C,) average precision: the area under the steps of precision over recall."""

    precision: Floats
    """(K, C) and so below; 0 where nothing is predicted."""

    recall: Floats
    f1: Floats
    mcc: Floats
    """Matthews correlation; 0 where all samples are predicted alike."""

    iou: Floats
    """True positive rate over the sum of true positive, false positive and false negative rate."""

    micro: dict[str, Floats]
    """auroc, auprc: scalars; precision, recall, f1: (K,); over all pairs of a sample and a class with positives."""

    @property
    def left_out(self) -> tuple[str, ...]:
        """Classes without positives, which count in no mean."""
        return tuple(name for name, count in zip(self.classes, self.positives, strict=True) if count == 0)

    def summary(self, cutoff: float = 0.5) -> dict[str, float]:
        """Means over classes, micro means, and areas per class, under flat names; what is not defined is left out."""
        row = int(np.abs(np.array(self.cutoffs) - cutoff).argmin())
        found: dict[str, float] = {}
        for name in ("auroc", "auprc"):
            values_C = getattr(self, name)
            found |= {f"{name}_macro": _mean(values_C), f"{name}_micro": float(self.micro[name])}
            found |= {f"{name}_{label}": float(value) for label, value in zip(self.classes, values_C, strict=True)}
        for name in ("precision", "recall", "f1"):
            found |= {f"{name}_macro": _mean(getattr(self, name)[row]), f"{name}_micro": float(self.micro[name][row])}
        found["mcc_macro"] = _mean(self.mcc[row])
        return {name: value for name, value in found.items() if not np.isnan(value)}

    def by_class(self, cutoff: float = 0.5) -> dict[str, float]:
        """precision, recall, f1, mcc and iou of each class at the nearest cut-off, under flat names."""
        row = int(np.abs(np.array(self.cutoffs) - cutoff).argmin())
        return {
            f"{name}_{label}": float(value)
            for name in ("precision", "recall", "f1", "mcc", "iou")
            for label, value in zip(self.classes, getattr(self, name)[row], strict=True)
            if not np.isnan(value)
        }


def report(
    scores_NC: Floats, labels_NC: Choices, classes: Sequence[str], cutoffs: Sequence[float] = CUTOFFS
) -> MultilabelReport:
    """All figures of scores in 0..1; a score at a cut-off or above it is a prediction."""
    assert scores_NC.shape == labels_NC.shape == (len(scores_NC), len(classes)), (scores_NC.shape, labels_NC.shape)
    labels_NC = labels_NC.astype(bool)
    held_C = labels_NC.any(0)
    areas_2C = np.array([_areas(scores_NC[:, c], labels_NC[:, c]) for c in range(len(classes))]).reshape(-1, 2).T
    counts_4KC = _count(scores_NC, labels_NC, cutoffs)
    per_class = {name: np.where(held_C, values_KC, np.nan) for name, values_KC in _rates(counts_4KC).items()}
    pooled = _rates(counts_4KC[:, :, held_C].sum(-1))
    auroc, auprc = _areas(scores_NC[:, held_C].ravel(), labels_NC[:, held_C].ravel())
    micro = {name: pooled[name] for name in ("precision", "recall", "f1")}
    return MultilabelReport(
        classes=tuple(classes),
        cutoffs=tuple(cutoffs),
        positives=labels_NC.sum(0),
        auroc=areas_2C[0],
        auprc=areas_2C[1],
        micro={"auroc": np.float64(auroc), "auprc": np.float64(auprc), **micro},  # type: ignore[dict-item]
        **per_class,
    )


def site_accuracy(
    scores_RC: Floats, targets_RC: Choices, protein_R: NDArray[np.int64], classes: Sequence[str]
) -> dict[str, float]:
    """By class, the share of proteins with a motif whose best residue is the first one marked in the targets.

    Residues of all proteins in a row (`runner.proteins.fragments.Joined`); classes without a motif are left out.
    """
    starts = np.flatnonzero(np.diff(protein_R, prepend=-1))
    hits: dict[str, list[bool]] = {}
    for start, stop in zip(starts, [*starts[1:], len(protein_R)], strict=True):
        scores_LC, targets_LC = scores_RC[start:stop], targets_RC[start:stop]
        same_C = scores_LC.argmax(0) == targets_LC.argmax(0)
        for label in np.flatnonzero(targets_LC.any(0)).tolist():
            hits.setdefault(classes[label], []).append(bool(same_C[label]))
    return {name: float(np.mean(hits[name])) for name in classes if name in hits}


def _areas(scores_N: Floats, labels_N: Choices) -> tuple[float, float]:
    from sklearn.metrics import average_precision_score, roc_auc_score  # heavy, and only needed here

    if not labels_N.any():
        return np.nan, np.nan
    auroc = np.nan if labels_N.all() else float(roc_auc_score(labels_N, scores_N))
    return auroc, float(average_precision_score(labels_N, scores_N))


def _count(scores_NC: Floats, labels_NC: Choices, cutoffs: Sequence[float]) -> Floats:
    """(4, K, C) true positives, false positives, false negatives, true negatives."""
    predicted_KNC = scores_NC >= np.array(cutoffs)[:, None, None]
    pairs = [(p, t) for t in (labels_NC, ~labels_NC) for p in (predicted_KNC, ~predicted_KNC)]
    tp, fn, fp, tn = ((predicted & true).sum(1).astype(np.float64) for predicted, true in pairs)
    return np.stack([tp, fp, fn, tn])


def _rates(counts: Floats) -> dict[str, Floats]:
    tp, fp, fn, tn = counts
    recall, fall_out = _ratio(tp, tp + fn), _ratio(fp, fp + tn)
    spread = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return {
        "precision": _ratio(tp, tp + fp),
        "recall": recall,
        "f1": _ratio(2 * tp, 2 * tp + fp + fn),
        "mcc": _ratio(tp * tn - fp * fn, spread),
        "iou": recall / (1 + fall_out),
    }


def _ratio(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.zeros_like(whole), where=whole > 0)


def _mean(values_C: Floats) -> float:
    return float(np.nanmean(values_C)) if not np.isnan(values_C).all() else np.nan
