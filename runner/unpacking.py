"""Packed files (.gz, .xz), unpacked only as far as honest ones go: a few megabytes can unpack to all of memory."""

import gzip
import lzma
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import IO, cast

from runner.errors import DataError

RATIO = 200
"""Texts of machine code, the most compressible data there are here, shrink to a thirtieth."""

SMALL_BYTES = 64 * 2**20
"""What any file may unpack to."""

LONGEST_LINE_BYTES = 16 * 2**20
BLOCK_BYTES = 2**20


def read_unpacked(path: Path) -> bytes:
    """The whole content of a file, unpacked if it is a .gz or .xz.

    Raises: DataError for one that is damaged or unpacks to far more than data do; OSError.
    """
    return b"".join(_blocks(path))


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that are not empty, with their numbers from 1, within the same limits. Raises: the same."""
    number, rest = 0, b""
    for block in _blocks(path):
        lines = (rest + block).split(b"\n")
        rest = lines.pop()
        if len(rest) > LONGEST_LINE_BYTES:
            raise DataError(f"{path}: has a line of more than {LONGEST_LINE_BYTES // 2**20} MB; it is no data")
        yield from ((number + place, line) for place, line in enumerate(lines, start=1) if line)
        number += len(lines)
    if rest:
        yield number + 1, rest


def _blocks(path: Path) -> Iterator[bytes]:
    packed, size = path.stat().st_size, 0
    with _open(path) as file:
        while block := _read(file, path):
            size += len(block)
            if size > max(SMALL_BYTES, RATIO * packed):
                raise DataError(f"{path}: unpacks to more than {RATIO} times its {packed} bytes; it is no data")
            yield block


def _open(path: Path) -> "closing[IO[bytes]]":
    if path.suffix == ".gz":
        return closing(cast("IO[bytes]", gzip.open(path, "rb")))
    return closing(cast("IO[bytes]", lzma.open(path, "rb")) if path.suffix == ".xz" else path.open("rb"))


def _read(file: IO[bytes], path: Path) -> bytes:
    try:
        return file.read(BLOCK_BYTES)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{path}: cannot be unpacked: {getattr(error, 'strerror', None) or error}") from None
