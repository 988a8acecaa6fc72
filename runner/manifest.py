"""The manifest of a checkpoint: the files of all ranks, with sizes and checksums, and nothing that leads elsewhere."""

import errno
import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

from runner.errors import CheckpointError

FORMAT = 2
"""1: without a sha256 of the manifest itself."""

_FLAWS = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EACCES, errno.EPERM)
"""What a file's own state may answer; all other errors are of the disk, the file server or this process."""

MANIFEST = "manifest.json"
LARGEST_BYTES = 64_000_000
"""Of tens of thousands of ranks."""


def file_of(rank: int) -> str:
    return f"rank_{rank:05d}.pt"


def seal(manifest: dict[str, Any]) -> bytes:
    """A manifest as it is written: with a sha256 of all that it says."""
    digest = hashlib.sha256(json.dumps(manifest).encode()).hexdigest()
    return json.dumps({**manifest, "sha256": digest}, indent=2).encode()


def read_manifest(folder: Path, step: int, attempt: int) -> dict[str, Any]:
    """The manifest in the folder of a checkpoint; with it every file that it names is one of a rank.

    Raises: CheckpointError, why it cannot be trusted; OSError where nobody can tell.
    """
    path = folder / MANIFEST
    try:
        check_own(folder)
        if not path.exists():
            raise CheckpointError("it has no manifest")
        check_own(path)
        if (size := path.stat().st_size) > LARGEST_BYTES:
            raise CheckpointError(f"its manifest has {size} bytes")
        written = path.read_bytes()
        manifest = dict(json.loads(written))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        if not is_flaw(error):
            raise
        raise CheckpointError(f"its manifest cannot be read: {error}") from None
    if flaw := _find_flaw(manifest, written, step, attempt):
        raise CheckpointError(flaw)
    return manifest


def is_flaw(error: Exception) -> bool:
    """Whether a file that cannot be read is at fault itself, and not its disk, the file server or this process."""
    return not isinstance(error, OSError) or error.errno in _FLAWS


def check_own(path: Path) -> None:
    """Raise ValueError for a link, which leads anywhere, and for what another user has put there."""
    facts = path.lstat()
    if stat.S_ISLNK(facts.st_mode):
        raise ValueError("it is a link")
    if facts.st_uid not in (os.geteuid(), 0):
        raise ValueError(f"it belongs to user {facts.st_uid}; copy it, if you trust them")


def _find_flaw(manifest: dict[str, Any], written: bytes, step: int, attempt: int) -> str | None:
    version, world, files = manifest.get("format"), manifest.get("world_size"), manifest.get("files")
    if not isinstance(version, int) or version < 1:
        return f"it says that its format is {version!r}"
    if version > FORMAT:
        return f"it was written in format {version}; this version reads up to {FORMAT}"
    is_sealed = manifest.pop("sha256", None) is not None
    if (is_sealed or version > 1) and written != seal(manifest):
        return "its manifest is not what was written"
    if (manifest.get("step"), manifest.get("attempt")) != (step, attempt):
        return "its manifest is of another step or attempt"
    if not isinstance(world, int) or not isinstance(files, dict) or len(files) != world:
        return "its manifest does not name a file for each rank"
    if any(file not in files for file in map(file_of, range(world))):
        return "its manifest names files that no rank writes"
    if not all(isinstance(facts, dict) and {"size", "sha256"} <= facts.keys() for facts in files.values()):
        return "its manifest has no sizes and checksums"
    return None
