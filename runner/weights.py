"""Files of tensors that others may have written: read without running anything, or refused in one line.

torch.save writes a zip of unpacked parts around a pickle of plain values. With `weights_only` torch builds nothing
but tensors and plain values from it; packed parts, which could grow to any size, it would unpack, so we refuse them.
"""

import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from runner.errors import CheckpointError
from runner.strict_yaml import one_line

_ASKED_FOR = re.compile(r"(?:Unsupported global: )?GLOBAL ([\w.]+)")


class UnreadableError(CheckpointError):
    """A file that is no mapping of tensors and plain values, or more than that."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: not loaded: it {reason}")
        self.reason = reason


def read_tensors(path: Path) -> dict[str, Any]:
    """The mapping in a file of torch.save, on the CPU.

    Raises: UnreadableError, one line, for anything else, such as a pickle that asks for a function.
    """
    if flaw := _find_flaw(path):
        raise UnreadableError(path, flaw)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a damaged or a malicious file makes torch raise
        asked = _ASKED_FOR.search(str(error))
        why = f"asks for {asked[1]}, which no tensor needs" if asked else f"cannot be read: {_first_line(error)}"
        raise UnreadableError(path, why) from None
    if not isinstance(content, dict):
        raise UnreadableError(path, f"holds {type(content).__name__}, no mapping")
    return content


def _find_flaw(path: Path) -> str | None:
    """What is wrong with a file before it is loaded."""
    if not path.is_file():
        return "is no file"
    try:
        with zipfile.ZipFile(path) as file:
            parts = file.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return "is not in torch's format"
    if all(part.compress_type == zipfile.ZIP_STORED for part in parts):
        return None if sum(part.file_size for part in parts) <= path.stat().st_size else "overlaps with itself"
    return "has packed parts, which torch never writes"


def _first_line(error: Exception) -> str:
    return one_line((str(error).strip().splitlines() or [type(error).__name__])[0])
