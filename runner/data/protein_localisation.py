"""Proteins and the places in the cell that their sorting signals send them to: 8 classes, several for some.

Reads tables as MUTarget's (`runner.proteins.table`); 3,173 of its proteins are shipped with the repository,
experiments/samples/proteins/README.md says where they come from.

Columns: `sequence` (N, L) uint8 tokens; `protein` (N,) int64, which protein a row is of; `start` (N,) int64, the
residue of the protein that a row begins with; `motif` (N, L, C) uint8 targets, if wanted.

Shapes: N rows (proteins or fragments), L residues of the longest row, C classes.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field, model_validator

from runner.dataset import Records
from runner.errors import DataError
from runner.explain import OptionError
from runner.proteins.alphabet import VOCABULARY, Alphabet, spell, tokenise
from runner.proteins.fragments import fragment_starts
from runner.proteins.motifs import MotifTarget, motif_targets
from runner.proteins.table import Protein, class_matrix, read_proteins
from runner.schema import Options

KIND = "records"
SPLITS = ("train", "validation", "test")
LABELS = "several"
TEXTS: tuple[str, ...] = ()

SHIPPED = Path(__file__).parents[2] / "experiments" / "samples" / "proteins" / "proteins.csv.gz"
CLASSES = "Nucleus", "ER", "Peroxisome", "Mitochondrion", "Nucleus_export", "SIGNAL", "chloroplast", "Thylakoid"

FIRST_RESIDUES = 24
"""By which a protein is told from others."""

Partitions = tuple[Annotated[int, Field(ge=0)], ...]


class Config(Options):
    path: str | None = None
    """The table, .csv or .csv.gz. None: experiments/samples/proteins/proteins.csv.gz of this repository."""

    train: Partitions = Field(default=(0, 1), min_length=1)
    """Homology partitions of the table to train on."""

    validation: Partitions = ()
    """Partitions to choose between trials by."""

    test: Partitions = Field(default=(2,), min_length=1)
    """Partitions to test on."""

    max_length: int = Field(default=1022, ge=2)
    """Residues of a row at most; with the two special tokens of ESM-2, 1022 are 1024."""

    fragments: bool = True
    """Cut longer proteins into overlapping fragments, each a row. False: one row, without the protein's middle,
    because most signals are near an end."""

    overlap: int = Field(default=200, ge=0)
    """Residues that a fragment shares with the one before."""

    alphabet: Alphabet = "standard"
    """standard: the twenty amino acids and X for any other; extended: B, O, U and Z, too."""

    motif: Literal["none"] | MotifTarget = "none"
    """Targets for each residue: span marks all residues of a motif, site the last one, where a peptide is cut off."""

    limit: Annotated[int, Field(ge=1)] | None = None
    """At most this many proteins of a split, the first ones. None: all."""

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        if self.fragments and self.overlap >= self.max_length:
            problem = f"{self.overlap} is not allowed; must be less than max_length, {self.max_length}"
            raise OptionError("overlap", problem)
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        seen: dict[int, str] = {}
        for split, partitions in splits.items():
            for partition in partitions:
                if partition in seen:
                    problem = (
                        f"{list(partitions)} is not allowed; partition {partition} is in {seen[partition]} already"
                    )
                    raise OptionError(split, problem)
                seen[partition] = split
        return self


class Row(NamedTuple):
    """The residues of one protein that a row holds: a stretch, or the two ends."""

    protein: int
    start: int
    residues: list[int]


def sources(config: Config) -> list[Path]:
    """What must be there before."""
    return [Path(config.path).expanduser() if config.path else SHIPPED]


def build(config: Config, split: Literal["train", "validation", "test"]) -> Records:
    """Raises DataError if the table is missing or broken, OptionError for a partition that it does not have."""
    (path,) = sources(config)
    if config.path is None and not path.is_file():
        raise DataError(
            f"data.path: no {path.name} in {path.parent}; it comes with a checkout of the repository "
            "(pip install -e .): set data.path to its experiments/samples/proteins/proteins.csv.gz"
        )
    try:
        proteins = read_proteins(path, CLASSES)
    except DataError as error:
        raise DataError(f"data.path: {error}") from None
    return to_records(choose_partitions(proteins, config, split)[: config.limit], config)


def choose_partitions(
    proteins: Sequence[Protein], config: Config, split: Literal["train", "validation", "test"]
) -> list[Protein]:
    """The proteins of a split; raises OptionError where it, or any other split, names a partition that is not there."""
    partitions = {"train": config.train, "validation": config.validation, "test": config.test}
    there = sorted({protein.partition for protein in proteins})
    for name, wanted in partitions.items():
        if unknown := [partition for partition in wanted if partition not in there]:
            problem = f"{list(wanted)} is not allowed; the table has no partition {unknown[0]}, it has "
            raise OptionError(f"data.{name}", problem + ", ".join(map(str, there)))
    if not partitions[split]:
        free = [partition for partition in there if partition not in (*config.train, *config.test)]
        remedy = f"name one that no other split has, such as {free[0]}" if free else "take one out of train or test"
        raise OptionError(f"data.{split}", f"[] is not allowed here; {remedy}")
    return [protein for protein in proteins if protein.partition in partitions[split]]


def to_records(proteins: Sequence[Protein], config: Config) -> Records:
    """Rows of the proteins, in their order."""
    rows = list(cut_rows(proteins, config))
    texts = ["".join(proteins[row.protein].sequence[place] for place in row.residues) for row in rows]
    owner_N = torch.tensor([row.protein for row in rows])
    columns = {
        "sequence": tokenise(texts, config.alphabet),
        "protein": owner_N,
        "start": torch.tensor([row.start for row in rows]),
    }
    if config.motif != "none":
        targets_NLC = torch.zeros(*columns["sequence"].shape, len(CLASSES), dtype=torch.uint8)
        for targets_LC, row in zip(targets_NLC, rows, strict=True):
            protein = proteins[row.protein]
            whole_LC = motif_targets([protein], len(protein.sequence), len(CLASSES), config.motif)[0]
            targets_LC[: len(row.residues)] = whole_LC[row.residues]
        columns["motif"] = targets_NLC
    labels_NC = class_matrix(proteins, len(CLASSES))[owner_N]
    return Records(columns, labels_NC, CLASSES, VOCABULARY[config.alphabet])


def cut_rows(proteins: Sequence[Protein], config: Config) -> Iterator[Row]:
    """One row a protein, or its fragments if it is longer than `max_length`."""
    size = config.max_length
    for index, protein in enumerate(proteins):
        length = len(protein.sequence)
        if config.fragments:
            for start in fragment_starts(length, size, config.overlap):
                yield Row(index, start, list(range(start, min(start + size, length))))
        elif length <= size:
            yield Row(index, 0, list(range(length)))
        else:
            yield Row(index, 0, [*range((size + 1) // 2), *range(length - size // 2, length)])


def describe(data: Records, row: int) -> str:
    """A protein, or a fragment of one, by its number and its first residues."""
    protein, start = (int(data.columns[name][row]) for name in ("protein", "start"))
    place = f"protein {protein}" + (f" from residue {start}" if start else "")
    return f"{place}: {spell(data.columns['sequence'][row, :FIRST_RESIDUES])}"
