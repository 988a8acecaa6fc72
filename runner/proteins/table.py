"""The table of proteins: a CSV file (or .csv.gz) with the columns Entry, Partition, MOTIF and Sequence.

MOTIF lists the sorting signals as `start-end:Class`, joined by `|`; positions count from 1 and both ends belong
to the motif. Other columns (Kingdom, Group, LOCATION) are not needed.

Shapes: N proteins, C classes.
"""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from runner.errors import DataError
from runner.unpacking import read_unpacked

COLUMNS = "Entry", "Partition", "MOTIF", "Sequence"
MOTIF = re.compile(r"(\d+)-(\d+):(\w+)", re.ASCII)
SEQUENCE = re.compile(r"[A-Za-z]+\*?", re.ASCII)


class Motif(NamedTuple):
    """A stretch of residues that sends the protein somewhere."""

    start: int
    """First residue, counted from 0."""

    stop: int
    """One after the last residue."""

    label: int
    """Its class."""


class Protein(NamedTuple):
    entry: str
    partition: int
    sequence: str
    motifs: tuple[Motif, ...]


def read_proteins(path: Path, classes: Sequence[str]) -> list[Protein]:
    """The proteins of a table in its order.

    Raises DataError, one line with the line of the file, if the table is missing, empty or broken, or names an entry
    twice.
    """
    line_of: dict[str, int] = {}
    proteins = []
    text = _read_text(path)
    if not text.strip():
        raise DataError(f"{path}: is empty; its first line should name the columns {', '.join(COLUMNS)}")
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
            raise ValueError(f"has no column {missing[0]}; it needs {', '.join(COLUMNS)}")
        for row in reader:
            protein = _parse_row(row, classes)
            if line_of.setdefault(protein.entry, reader.line_num) != reader.line_num:
                raise ValueError(f"Entry: {protein.entry!r} is on line {line_of[protein.entry]} already")
            proteins.append(protein)
    except (ValueError, csv.Error) as error:
        raise DataError(f"{path}:{reader.line_num}: {error}") from None
    if not proteins:
        raise DataError(f"{path}: holds no proteins, only the line that names its columns")
    return proteins


def parse_motifs(text: str, residues: int, classes: Sequence[str]) -> tuple[Motif, ...]:
    """The motifs of a field such as `1-24:SIGNAL|190-199:Peroxisome`; an empty field has none.

    Raises ValueError if a motif is not of that form, not of a known class or not within the sequence.
    """
    motifs = []
    for part in text.split("|") if text.strip() else ():
        if not (match := MOTIF.fullmatch(part.strip())):
            raise ValueError(f"MOTIF: {part!r} is not of the form start-end:Class")
        start, stop, name = int(match[1]) - 1, int(match[2]), match[3]
        if name not in classes:
            raise ValueError(f"MOTIF: {name!r} is no class; there is {', '.join(classes)}")
        if not 0 <= start < stop <= residues:
            raise ValueError(f"MOTIF: {part!r} is not within the {residues} residues of the sequence")
        motifs.append(Motif(start, stop, classes.index(name)))
    return tuple(motifs)


def class_matrix(proteins: Iterable[Protein], classes: int) -> Tensor:
    """(N, C) float, 1 for each class that a protein has a motif of."""
    rows = [[motif.label for motif in protein.motifs] for protein in proteins]
    labels_NC = torch.zeros(len(rows), classes)
    for labels_C, row in zip(labels_NC, rows, strict=True):
        labels_C[row] = 1.0
    return labels_NC


def _parse_row(row: dict[str, str | None], classes: Sequence[str]) -> Protein:
    entry, partition, motifs, sequence = (row[name] for name in COLUMNS)
    if entry is None or partition is None or motifs is None or sequence is None:
        raise ValueError(f"has fewer than the {len(row)} columns of the first line")
    if not partition.isdecimal():
        raise ValueError(f"Partition: {partition!r} is not a whole number")
    if not SEQUENCE.fullmatch(sequence):
        raise ValueError(f"Sequence: {sequence[:20]!r} is not made of letters")
    sequence = sequence.removesuffix("*")  # some tools write the stop codon
    return Protein(entry, int(partition), sequence, parse_motifs(motifs, len(sequence), classes))


def _read_text(path: Path) -> str:
    try:
        return read_unpacked(path).decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: is not UTF-8") from None
