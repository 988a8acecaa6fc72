"""The table of proteins, its classes and motifs, and what is said about one that is broken."""

import gzip

import pytest
import torch

from runner.errors import DataError
from runner.proteins.alphabet import LETTERS, VOCABULARY, lengths, tokenise
from runner.proteins.motifs import motif_targets
from runner.proteins.table import Motif, class_matrix, parse_motifs, read_proteins

CLASSES = "SIGNAL", "Nucleus", "ER"
HEADER = "Entry,Kingdom,Partition,Group,MOTIF,LOCATION,Sequence"
ROWS = [
    "P1,ANIMALS,0,1,1-3:SIGNAL|5-6:ER,Secreted,MKLVAD",
    'P2,PLANTS,2,1,2-2:Nucleus,"Cytoplasm, or not",MAUX',
    "P3,FUNGI,1,2,,Nucleus,MDEL*",
]


def write(path, rows=ROWS, header=HEADER):
    content = "\n".join([header, *rows, ""]).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("name", ["proteins.csv", "proteins.csv.gz"])
def test_a_table_is_read(tmp_path, name):
    first, second, third = read_proteins(write(tmp_path / name), CLASSES)
    assert first == ("P1", 0, "MKLVAD", (Motif(0, 3, 0), Motif(4, 6, 2)))
    assert second == ("P2", 2, "MAUX", (Motif(1, 2, 1),))
    assert third == ("P3", 1, "MDEL", ())


def test_a_protein_has_every_class_that_it_has_a_motif_of(tmp_path):
    proteins = read_proteins(write(tmp_path / "proteins.csv"), CLASSES)
    assert class_matrix(proteins, 3).tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]


def test_motifs_become_targets_of_their_residues(tmp_path):
    proteins = read_proteins(write(tmp_path / "proteins.csv"), CLASSES)
    span, site = (motif_targets(proteins, 7, 3, target) for target in ("span", "site"))
    assert span[0, :, 0].tolist() == [1, 1, 1, 0, 0, 0, 0] and site[0, :, 0].tolist() == [0, 0, 1, 0, 0, 0, 0]
    assert span[0, :, 2].tolist() == [0, 0, 0, 0, 1, 1, 0] and site[0, :, 2].tolist() == [0, 0, 0, 0, 0, 1, 0]
    assert span[1, :, 1].tolist() == [0, 1, 0, 0, 0, 0, 0]
    assert span[2].sum() == 0 and span.dtype == torch.uint8


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("P1,A,0,1,1-9:SIGNAL,x,MKL", "MOTIF: '1-9:SIGNAL' is not within the 3 residues of the sequence"),
        ("P1,A,0,1,0-2:SIGNAL,x,MKL", "MOTIF: '0-2:SIGNAL' is not within the 3 residues"),
        ("P1,A,0,1,3-2:SIGNAL,x,MKL", "MOTIF: '3-2:SIGNAL' is not within the 3 residues"),
        ("P1,A,0,1,?-2:SIGNAL,x,MKL", r"MOTIF: '\?-2:SIGNAL' is not of the form start-end:Class"),
        ("P1,A,0,1,1-2:Signal,x,MKL", "MOTIF: 'Signal' is no class; there is SIGNAL, Nucleus, ER"),
        ("P1,A,zero,1,1-2:SIGNAL,x,MKL", "Partition: 'zero' is not a whole number"),
        ("P1,A,0,1,,x,", "Sequence: '' is not made of letters"),
        ("P1,A,0,1,,x,MK-L", "Sequence: 'MK-L' is not made of letters"),
        ("P1,A,0,1", "has fewer than the 7 columns of the first line"),
        ("P2,A,0,1,,x,MKL", "Entry: 'P2' is on line 2 already"),
    ],
)
def test_a_broken_row_is_named_by_its_line(tmp_path, row, message):
    path = write(tmp_path / "proteins.csv", [ROWS[1], row])
    with pytest.raises(DataError, match=rf"proteins\.csv:3: {message}") as caught:
        read_proteins(path, CLASSES)
    assert "\n" not in str(caught.value)


def test_a_broken_table_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.csv: there is no such file"):
        read_proteins(tmp_path / "none.csv", CLASSES)
    with pytest.raises(DataError, match="has no column MOTIF; it needs Entry, Partition, MOTIF, Sequence"):
        read_proteins(write(tmp_path / "a.csv", header=HEADER.replace("MOTIF", "Motif")), CLASSES)
    cut = write(tmp_path / "b.csv.gz")
    cut.write_bytes(cut.read_bytes()[:-10])
    for path, content in [(cut, None), (tmp_path / "c.csv.gz", b"plain"), (tmp_path / "d.csv", b"\xff")]:
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(DataError, match=rf"{path.name}: (cannot be unpacked: .|is not UTF-8)") as caught:
            read_proteins(path, CLASSES)
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"e\.csv: holds no proteins, only the line that names its columns$"):
        read_proteins(write(tmp_path / "e.csv", []), CLASSES)
    (tmp_path / "f.csv").write_text("\n")
    with pytest.raises(DataError, match=r"f\.csv: is empty; its first line should name the columns Entry, Partition"):
        read_proteins(tmp_path / "f.csv", CLASSES)


def test_an_empty_motif_field_has_none():
    assert parse_motifs(" ", 10, CLASSES) == ()


def test_tokens_are_letters_in_order_and_padding_is_zero():
    tokens = tokenise(["ACDY", "x", "BOUZ", ""], "extended")
    assert tokens.dtype == torch.uint8
    assert tokens.tolist() == [[1, 2, 3, 20], [21, 0, 0, 0], [22, 23, 24, 25], [0, 0, 0, 0]]
    assert lengths(tokens).tolist() == [4, 1, 4, 0]
    assert tokenise([LETTERS], "extended").max() == VOCABULARY["extended"] - 1
    standard = tokenise([LETTERS + "é-"])
    assert standard[0, 20:].tolist() == [21] * 7 and standard.max() == VOCABULARY["standard"] - 1
