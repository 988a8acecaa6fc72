"""A function as three texts (comment, source, binary), and the JSON lines that hold them, packed or not."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.errors import DataError
from runner.unpacking import read_lines


@dataclass(frozen=True)
class Triple:
    """One function; a level is missing from `asm` where the compiler left nothing of the function."""

    package: str
    file: str
    name: str
    comment: str
    source: str
    """Without comments."""

    asm: dict[str, str]
    """Disassembly by optimisation level, O0 to O3."""

    ir: str = ""
    """LLVM IR, or nothing."""

    version: str = ""
    license: str = ""
    key: str = field(init=False, repr=False, compare=False)
    """sha1 of the source without white space: equal functions have equal keys."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", hashlib.sha1("".join(self.source.split()).encode()).hexdigest())


TEXTS = ("package", "file", "name", "comment", "source")
OPTIONAL = ("ir", "version", "license")


def read_triples(path: Path) -> Iterator[Triple]:
    """The rows of a .jsonl or .jsonl.gz file, in order.

    Raises DataError, one line with the number of the row, for a missing file, a broken row, or a missing or
    wrong key.
    """
    try:
        for number, line in read_lines(path):
            if line.strip():
                yield _parse(line, f"{path}: row {number}")
    except FileNotFoundError:
        raise DataError(f"no file of triples at {path}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None


def _parse(line: bytes, place: str) -> Triple:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: not JSON: {error}") from None
    if not isinstance(row, dict):
        raise DataError(f"{place}: {type(row).__name__} instead of a mapping")
    if missing := [key for key in (*TEXTS, "asm") if key not in row]:
        raise DataError(f"{place}: has no {missing[0]!r}; a triple has {', '.join((*TEXTS, 'asm'))}")
    texts = {key: row[key] for key in TEXTS} | {key: row.get(key) or "" for key in OPTIONAL}
    for key, value in texts.items():
        if not isinstance(value, str):
            raise DataError(f"{place}: {key!r} is {value!r}, should be a text")
    return Triple(asm=_check_asm(row["asm"], place), **texts)


def _check_asm(asm: Any, place: str) -> dict[str, str]:
    if not isinstance(asm, dict) or not all(isinstance(text, str) for text in asm.values()):
        raise DataError(f"{place}: 'asm' should map levels to texts")
    return asm
