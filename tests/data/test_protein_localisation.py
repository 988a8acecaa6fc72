"""The shipped proteins, and how long ones become rows."""

import pytest
import torch
from pydantic import ValidationError

from runner import named
from runner.data import protein_localisation
from runner.data.protein_localisation import CLASSES, SHIPPED, Config, build, to_records
from runner.errors import ConfigError, DataError
from runner.mining.distances import hardness, read_distances
from runner.proteins.alphabet import lengths, tokenise
from runner.proteins.fragments import join_fragments
from runner.proteins.table import Motif, Protein
from runner.schema import build as build_config


@pytest.fixture(scope="module")
def splits():
    return {split: build(Config(), split) for split in ("train", "test")}


def make(length, motifs=()):
    letters = "ACDEFGHIKLMNPQRSTVWY"
    return Protein("P", 0, "".join(letters[i * i % 20] for i in range(length)), motifs)


def test_the_sample_has_the_proteins_its_readme_counts(splits):
    per_class = {
        "train": [128 + 121, 30 + 29, 13 + 13, 160 + 159, 25 + 25, 651 + 642, 70 + 70, 10 + 9],
        "test": [131, 29, 12, 158, 25, 645, 69, 9],
    }
    for split, records in splits.items():
        first = records.columns["start"] == 0
        assert records.labels[first].sum(0).tolist() == per_class[split]
        assert first.sum() == {"train": 1061 + 1057, "test": 1055}[split]
        assert records.classes == CLASSES and records.vocabulary == 22
        assert records.columns["sequence"].dtype == torch.uint8 and records.columns["sequence"].max() == 21
        assert len(records) == len(records.labels) == len(records.columns["protein"])
        assert lengths(records.columns["sequence"]).max() == records.columns["sequence"].shape[1] == 1022


def test_the_shipped_distances_go_with_the_classes():
    distances = read_distances(SHIPPED.parent / "distances.json", CLASSES)
    near = {CLASSES[c]: CLASSES[row.argmax()] for c, row in enumerate(hardness(distances))}
    assert near == {
        "Nucleus": "Nucleus_export",
        "ER": "Mitochondrion",
        "Peroxisome": "Mitochondrion",
        "Mitochondrion": "chloroplast",
        "Nucleus_export": "Nucleus",
        "SIGNAL": "ER",
        "chloroplast": "Mitochondrion",
        "Thylakoid": "chloroplast",
    }


@pytest.mark.parametrize("motif", ["span", "site"])
def test_fragments_put_together_are_the_proteins(motif):
    proteins = [make(25, (Motif(0, 9, 2), Motif(11, 16, 3))), make(10), make(31, (Motif(30, 31, 0),))]
    records = to_records(proteins, Config(max_length=10, overlap=4, motif=motif))
    columns = records.columns
    where = lengths(columns["sequence"]), columns["start"], columns["protein"]
    values = torch.cat([columns["sequence"][..., None], columns["motif"]], 2).double()
    joined = join_fragments(values, *where).values
    whole = to_records(proteins, Config(motif=motif)).columns
    real = whole["sequence"] > 0
    assert torch.equal(joined[:, 0], whole["sequence"][real].double())
    assert torch.equal(joined[:, 1:], whole["motif"][real].double())
    assert torch.equal(records.labels, to_records(proteins, Config()).labels[columns["protein"]])


def test_a_sequence_of_exactly_one_fragment_has_no_second():
    assert len(to_records([make(10)], Config(max_length=10, overlap=4))) == 1
    assert len(to_records([make(11)], Config(max_length=10, overlap=4))) == 2


def test_without_fragments_a_long_protein_keeps_both_ends():
    protein = make(30, (Motif(2, 5, 1), Motif(12, 15, 2), Motif(27, 30, 3)))
    records = to_records([protein, make(4)], Config(max_length=9, fragments=False, motif="span"))
    assert torch.equal(records.columns["sequence"][:1], tokenise([protein.sequence[:5] + protein.sequence[-4:]]))
    assert records.columns["motif"][0].sum(0).tolist() == [0, 3, 0, 3, 0, 0, 0, 0]
    assert records.columns["start"].tolist() == [0, 0] and lengths(records.columns["sequence"]).tolist() == [9, 4]
    assert records.labels[0].tolist() == [0, 1, 1, 1, 0, 0, 0, 0]


def test_limit_and_alphabet():
    limited = build(Config(limit=7, alphabet="extended"), "test")
    assert limited.columns["protein"].max() == 6 and limited.vocabulary == 26


def test_motif_targets_lie_on_residues(splits):
    records = build(Config(motif="site", limit=200), "train")
    real = records.columns["sequence"] > 0
    assert records.columns["motif"][~real].sum() == 0
    assert (records.columns["motif"].sum((1, 2)) > 0).float().mean() > 0.9


def test_a_partition_belongs_to_one_split():
    with pytest.raises(ValidationError, match=r"\[1, 2\] is not allowed; partition 1 is in train already"):
        Config(test=(1, 2))
    with pytest.raises(ValidationError, match=r"\[2, 2\] is not allowed; partition 2 is in validation already"):
        Config(validation=(2, 2), test=(3,))
    with pytest.raises(ValidationError, match="200 is not allowed; must be less than max_length, 100"):
        Config(max_length=100)
    Config(max_length=100, fragments=False)


def test_a_partition_that_is_not_there_is_named():
    """Whatever split is built: one that is read only at the end would be missed there."""
    with pytest.raises(ConfigError, match=r"data\.validation: \[\] is not allowed here; take one out of train or test"):
        build(Config(), "validation")
    for split in ("train", "test"):
        with pytest.raises(
            ConfigError, match=r"data\.test: \[2, 9\] is not allowed; the table has no partition 9, it has 0, "
        ):
            build(Config(test=(2, 9)), split)


def test_options_are_refused_by_their_dotted_key():
    for options, message in (
        ({"max_length": 100}, "data.overlap: 200 is not allowed; must be less than max_length, 100"),
        ({"test": [1, 2]}, "data.test: [1, 2] is not allowed; partition 1 is in train already"),
    ):
        with pytest.raises(ConfigError) as caught:
            build_config(Config, options, "data")
        assert str(caught.value) == message


def test_a_broken_table_is_told_by_its_key(tmp_path):
    with pytest.raises(DataError, match=rf"^data\.path: {tmp_path}/none\.csv: there is no such file$"):
        build(Config(path=str(tmp_path / "none.csv")), "train")


def test_an_installation_without_samples_says_where_they_are(monkeypatch, tmp_path):
    monkeypatch.setattr(protein_localisation, "SHIPPED", tmp_path / "proteins.csv.gz")
    with pytest.raises(DataError, match=r"no proteins\.csv\.gz in .*set data\.path to"):
        build(Config(), "train")


def test_the_name_is_a_file():
    assert named.load("data", "protein_localisation").build is build
