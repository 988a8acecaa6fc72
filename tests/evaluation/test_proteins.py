"""Fragments are evaluated as the proteins they are of."""

import pytest
import torch

from runner.dataset import Records
from runner.errors import ConfigError
from runner.evaluation import FrozenFeatures, class_calls, multilabel
from runner.evaluation._multilabel import report
from runner.evaluation._proteins import motif_accuracy, pool_proteins

CPU = torch.device("cpu")
NAMES = ("Nucleus", "ER", "SIGNAL")


def make_split(proteins=60, seed=0, classes=NAMES):
    """One to three fragments of 10 residues a protein, overlapping by 4, and what a method found for them."""
    generator = torch.Generator().manual_seed(seed)
    fragments = torch.randint(1, 4, (proteins,), generator=generator)
    owner = torch.arange(proteins).repeat_interleave(fragments)
    first = (fragments.cumsum(0) - fragments)[owner]
    start = 6 * (torch.arange(len(owner)) - first)
    labels = torch.eye(len(classes))[torch.arange(proteins) % len(classes)]
    labels[::7] = 1 - labels[::7]
    columns = {
        "sequence": torch.ones(len(owner), 10, dtype=torch.uint8),
        # Numbers with gaps, as in a part of a data set.
        "protein": 3 * owner + 5,
        "start": start,
    }
    features = 3 * labels[owner] @ torch.randn(3, 6, generator=torch.Generator().manual_seed(9))
    features += torch.randn(features.shape, generator=generator)
    scores = torch.randn(len(owner), len(classes), generator=generator) + labels[owner]
    return FrozenFeatures(features, labels[owner], {"scores": scores}, Records(columns, labels[owner], classes))


def rows_of(split):
    owner = split.data.columns["protein"]
    return [(owner == number).nonzero().ravel() for number in owner.unique()]


def test_pooling_is_a_loop_over_proteins():
    split = make_split()
    split = split._replace(others={**split.others, "projections": 2 * split.features, "motif_scores": torch.zeros(5)})
    pooled = pool_proteins(split)
    assert set(pooled.others) == {"scores", "projections"}
    for row, rows in enumerate(rows_of(split)):
        torch.testing.assert_close(pooled.features[row], split.features[rows].mean(0))
        torch.testing.assert_close(pooled.others["projections"][row], 2 * split.features[rows].mean(0))
        torch.testing.assert_close(pooled.others["scores"][row], split.others["scores"][rows].amax(0))
        assert torch.equal(pooled.labels[row], split.labels[rows[0]])
    assert len(pooled.features) == row + 1


def test_proteins_stay_in_the_order_of_the_data():
    split = make_split()
    order = torch.randperm(len(split.features), generator=torch.Generator().manual_seed(1))
    shuffled = split._replace(features=split.features[order], labels=split.labels[order], data=split.data.subset(order))
    pooled = pool_proteins(shuffled._replace(others={}))
    seen = list(dict.fromkeys(shuffled.data.columns["protein"].tolist()))
    by_number = dict(zip(split.data.columns["protein"].unique().tolist(), pool_proteins(split).features, strict=True))
    torch.testing.assert_close(pooled.features, torch.stack([by_number[number] for number in seen]))


@pytest.mark.parametrize("probe", [multilabel, class_calls])
def test_probes_see_proteins(probe):
    """Fragments give the figures of their proteins as samples of their own."""
    train, test = make_split(), make_split(seed=1)
    whole = [
        pooled._replace(data=Records({"x": pooled.features}, pooled.labels, NAMES))
        for pooled in map(pool_proteins, (train, test))
    ]
    found = probe.run(probe.Config(), train, test, CPU, 0)
    assert found == pytest.approx(probe.run(probe.Config(), *whole, CPU, 0))
    plain = [split._replace(data=None) for split in (train, test)]
    assert found != pytest.approx(probe.run(probe.Config(), *plain, CPU, 0))


def test_projections_are_fitted_beside_the_features():
    train, test = (split._replace(others={"projections": split.features[:, :2]}) for split in map(make_split, (60, 50)))
    found = multilabel.run(multilabel.Config(), train, test, CPU, 0)
    alone = [split._replace(features=split.features[:, :2], others={}) for split in (train, test)]
    expected = multilabel.run(multilabel.Config(), *alone, CPU, 0)
    assert (
        {name: found[f"projections_{name}"] for name in expected}
        == expected
        != {name: found[name] for name in expected}
    )


def test_the_methods_own_classifier_is_evaluated_by_class_name():
    train, test = make_split(), make_split(seed=1)
    found = multilabel.run(multilabel.Config(every_cutoff=True), train, test, CPU, 0)
    pooled = pool_proteins(test)
    expected = report(pooled.others["scores"].double().sigmoid().numpy(), pooled.labels.numpy() > 0, NAMES)
    for label, name in enumerate(NAMES):
        assert found[f"head_auroc_{name}"] == expected.auroc[label]
        assert found[f"head_mcc_{name}"] == expected.mcc[4, label]
        for row, cutoff in enumerate(expected.cutoffs):
            for figure in ("precision", "recall", "f1", "mcc", "iou"):
                assert found[f"head_{figure}_{name}_at_{cutoff:g}"] == getattr(expected, figure)[row, label]
    assert found["head_f1_macro"] == expected.summary(0.5)["f1_macro"]
    assert f"auprc_{NAMES[0]}" in found and "auprc_0" not in found
    few = multilabel.run(multilabel.Config(), train, test, CPU, 0)
    assert not any("_at_" in name for name in few) and few.items() <= found.items()


def test_projections_are_an_option_of_class_calls():
    train, test = make_split(), make_split(seed=1)
    moved = [
        split._replace(features=split.features[:, :1], others={"projections": split.features})
        for split in (train, test)
    ]
    projections = class_calls.Config(space="projections")
    assert class_calls.run(projections, *moved, CPU, 0) == class_calls.run(class_calls.Config(), train, test, CPU, 0)
    with pytest.raises(ConfigError, match="projections"):
        class_calls.run(projections, train, test, CPU, 0)


def test_the_best_residue_of_a_protein_is_compared_with_the_marked_one():
    split = make_split(proteins=3, classes=NAMES)
    columns = split.data.columns
    motif, scores = torch.zeros(len(columns["start"]), 10, 3), torch.zeros(len(columns["start"]), 10, 3)
    wanted, found = [{"Nucleus": 9, "ER": 2}, {"ER": 1}, {}], [{"Nucleus": 9, "ER": 3}, {"ER": 1}, {"SIGNAL": 4}]
    for marks, per_protein in ((motif, wanted), (scores, found)):
        for rows, places in zip(rows_of(split), per_protein, strict=True):
            for name, place in places.items():
                for row in rows:
                    if 0 <= place - columns["start"][row] < 10:
                        marks[row, place - columns["start"][row], NAMES.index(name)] = 1
    data = Records({**columns, "motif": motif.to(torch.uint8)}, split.labels, NAMES)
    split = split._replace(others={"motif_scores": scores}, data=data)
    assert motif_accuracy(split) == {"Nucleus": 1.0, "ER": 0.5}
    metrics = multilabel.run(multilabel.Config(), make_split(), split, CPU, 0)
    assert metrics["cs_acc_macro"] == 0.75 and metrics["cs_acc_ER"] == 0.5
    assert motif_accuracy(make_split()) == {}
