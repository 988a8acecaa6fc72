"""The floor that an encoder must beat on the shipped proteins: `python -m tests.benchmarks.bench_protein_floor`.

One balanced logistic regression a class on 881 counts of amino acids and pairs of them, partitions 0 and 1 to 2.
"""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from runner.data import protein_localisation
from runner.evaluation._multilabel import report
from runner.proteins.kmers import kmer_features


def main() -> None:
    config = protein_localisation.Config(max_length=10_000)
    splits = [protein_localisation.build(config, split) for split in ("train", "test")]
    train, test = (kmer_features(records.columns["sequence"]).double().numpy() for records in splits)
    known, wanted = (records.labels.numpy() > 0 for records in splits)
    scaler = StandardScaler().fit(train)
    scores = np.zeros(wanted.shape)
    for label in range(wanted.shape[1]):
        model = LogisticRegression(C=0.01, class_weight="balanced", max_iter=2000)
        model.fit(scaler.transform(train), known[:, label])
        scores[:, label] = model.predict_proba(scaler.transform(test))[:, 1]
    figures = report(scores, wanted, splits[1].classes).summary()
    for name in ("auprc_macro", "f1_macro", "f1_micro", "auroc_macro"):
        print(f"{name:12} {figures[name]:.3f}")
    print("auprc        " + ", ".join(f"{name} {figures[f'auprc_{name}']:.2f}" for name in splits[1].classes))
    top = wanted[np.arange(len(wanted)), scores.argmax(1)].mean()
    prior, always = wanted.mean(0).mean(), wanted[:, known.sum(0).argmax()].mean()
    print(f"best class in the label set {top:.3f} (always the most common {always:.3f}); prior auprc_macro {prior:.3f}")


if __name__ == "__main__":
    main()
