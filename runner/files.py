"""Files that are read back by other processes: written whole or not at all, and by whom they may be read."""

import errno
import itertools
import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

from runner.errors import ConfigError
from runner.launcher import find_intruder
from runner.strict_yaml import dump_yaml

T = TypeVar("T")
THREADS = 16
"""A journal takes what many threads sync at once for hardly more than what one does."""

PRIVATE, GROUP_READABLE = 0o077, 0o027
"""The umask of all that is written: for the user alone, or, where the site asks for it, to be read by the group."""


@contextmanager
def masked(umask: int) -> Iterator[None]:
    """What is made inside gets its permissions by this umask."""
    before = os.umask(umask)
    try:
        yield
    finally:
        os.umask(before)


def remove_empty(folder: Path, top: Path) -> None:
    """Remove a folder and its parents below `top` as far as they are empty."""
    for place in (folder, *folder.parents):
        if place == top or not place.is_relative_to(top):
            return
        with suppress(OSError):
            place.rmdir()


def check_private(folder: Path, top: Path) -> None:
    """Raise ConfigError unless nobody else can write to a folder, or to one of its parents up to `top`.

    What lies there is run: job files, shell lines. Folders that do not exist yet do not matter.
    """
    problem = find_intruder(str(folder), str(top))
    if problem:
        raise ConfigError(problem)


def read_whole(path: Path) -> bytes:
    """The content of a file. Raises: OSError; ValueError, naming it, for a folder, or a pipe that awaits a writer."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError(f"{path}: is no regular file")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


def read_json(path: Path) -> dict[str, Any] | None:
    """The document, or None when the file does not exist. Raises: ValueError, naming it, without a JSON mapping."""
    try:
        content = read_whole(path)
    except FileNotFoundError:
        return None
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        raise ValueError(f"{path}: holds no JSON") from None
    if not isinstance(document, dict):
        raise ValueError(f"{path}: holds no mapping")
    return document


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file; what is none, such as a line torn by a kill, is left out."""
    try:
        lines = read_whole(path).split(b"\n")
    except (FileNotFoundError, ValueError):
        return []
    rows = []
    for line in lines:
        try:
            row = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def append_row(path: Path, row: dict[str, Any], sync: bool = True, check: Callable[[], None] = lambda: None) -> None:
    """Add one row in a single write, so that concurrent writers never mix their lines; on disk at once if `sync`.

    `check` may raise before anything is written, but after the file was opened: if the path has come to name another
    file since, the row goes where nobody reads it. Raises: OSError that names the file.
    """
    line = json.dumps(row, separators=(",", ":"), allow_nan=True).encode() + b"\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
    try:
        check()
        if _ends_torn(path):
            line = b"\n" + line
        os.write(descriptor, line)
        if sync:
            os.fsync(descriptor)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(descriptor)


def _ends_torn(path: Path) -> bool:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size == 0:
            return False
        file.seek(size - 1)
        return file.read(1) != b"\n"


@contextmanager
def replacing(path: Path, sync_folder: bool = True) -> Iterator[IO[bytes]]:
    """Write a file beside its place, fsync it, rename it: readers see the old file or the whole new one.

    What is no file but leads somewhere, such as /dev/null or a pipe, is written to and stays what it is.

    Without `sync_folder` a power cut may take the new one away until somebody syncs the folder.
    Raises: OSError that names the file itself, and not the one beside it.
    """
    if not path.name:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if _is_stream(path):
        with path.open("wb") as file:
            yield file
        return
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        raise OSError(error.errno, error.strerror, str(path)) from error
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    if sync_folder:
        sync_path(path.parent)


@contextmanager
def replacing_output(path: Path) -> Iterator[IO[bytes]]:
    """`replacing` for a file that the user named: a link stays one, and what is there keeps its permissions."""
    real = path.resolve() if path.is_symlink() and not _is_stream(path) else path
    mode = stat.S_IMODE(real.stat().st_mode) if real.is_file() else None
    with replacing(real) as file:
        if mode is not None:
            os.fchmod(file.fileno(), mode)
        yield file


def _is_stream(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    # /dev/stdout may lead to an ordinary file.
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) or path.parent in (Path("/dev"), Path("/dev/fd"))


def in_parallel(work: Callable[..., T], *arguments: Iterable[Any]) -> list[T]:
    """`work` for each set of arguments, as `map`, in threads: what writes thousands of files waits for each of them.

    Raises the first error, once all are done.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(work, *arguments))


def write_json(path: Path, document: dict[str, Any]) -> None:
    with replacing(path) as file:
        file.write(json.dumps(document, indent=2, default=str).encode() + b"\n")


def write_yaml(path: Path, document: dict[str, Any], sync_folder: bool = True) -> None:
    with replacing(path, sync_folder) as file:
        file.write(dump_yaml(document).encode())


def link(path: Path, other: Path) -> bool:
    """Give a file a second name, on file systems that can; False where they cannot, or there is such a file."""
    with suppress(OSError):
        os.link(path, other)
        return True
    return False


def set_aside(path: Path) -> None:
    """Move a file out of the way, if there is one: failure.json becomes failure.1.json, or .2 and so on."""
    numbers = (path.with_suffix(f".{number}{path.suffix}") for number in itertools.count(1))
    if path.exists():
        os.rename(path, next(aside for aside in numbers if not aside.exists()))


def name_before(name: str) -> str | None:
    """What `set_aside` made a name from; None of a name that is no such one."""
    aside = re.fullmatch(r"(.+)\.\d+(\.\w+)", name)
    return f"{aside[1]}{aside[2]}" if aside else None


def sync_path(path: Path) -> None:
    """fsync a file, or a folder so that a rename in it survives a power loss."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
