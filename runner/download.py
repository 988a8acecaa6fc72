"""Fetching data sets from their official addresses: checked, and whole or not at all.

Several processes may fetch the same files at once. They take turns where the file system has locks; where it
has none each fetches its own copy. Either way a file appears under its name by one rename, when it is whole.
"""

import fcntl
import hashlib
import http.client
import os
import shutil
import tarfile
import tempfile
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from runner.errors import DataError

TIMEOUT_SECONDS = 60
BLOCK_BYTES = 2**20


def fetch_file(url: str, md5: str, target: Path) -> None:
    """Download one file to `target`, unless it is there.

    Raises DataError if it cannot be had or has another checksum.
    """
    if target.exists():
        return
    with alone_in(target.parent) as scratch:
        # another process may have been faster
        if not target.exists():
            os.replace(download(url, md5, scratch), target)


def fetch_archive(url: str, md5: str, folder: Path, names: Sequence[str]) -> None:
    """Download a tar archive and move its members `folder.name`/NAME into `folder`, unless all are there.

    Raises DataError if it cannot be had, has another checksum or lacks a member.
    """
    if all((folder / name).exists() for name in names):
        return
    with alone_in(folder) as scratch:
        if all((folder / name).exists() for name in names):
            return
        unpack(download(url, md5, scratch), url)
        for name in names:
            member = scratch / folder.name / name
            if not member.is_file():
                raise DataError(f"{url}: has no {folder.name}/{name}")
            os.replace(member, folder / name)


def fetch_tree(url: str, md5: str, folder: Path) -> None:
    """Download a tar or zip archive and move its member `folder.name` to `folder` as a whole, unless that is there.

    Raises DataError if it cannot be had, has another checksum or lacks that member.
    """
    if folder.exists():
        return
    with alone_in(folder.parent) as scratch:
        if folder.exists():
            return
        unpack(download(url, md5, scratch), url)
        if not (scratch / folder.name).is_dir():
            raise DataError(f"{url}: has no {folder.name}")
        os.replace(scratch / folder.name, folder)


@contextmanager
def alone_in(folder: Path) -> Iterator[Path]:
    """A scratch folder inside `folder`, with no other process at work there if locks are to be had."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY)
        try:
            # the kernel frees the lock of a process that dies, which a lock file would survive
            with suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX)
            scratch = Path(tempfile.mkdtemp(prefix=".download-", dir=folder))
            try:
                yield scratch
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
        finally:
            os.close(lock)
    except OSError as error:
        raise DataError(f"{folder}: cannot download into it: {error.strerror or error}") from error


def download(url: str, md5: str, scratch: Path) -> Path:
    """The downloaded file in `scratch`, its checksum compared with `md5`."""
    file = scratch / "download"
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as source, open(file, "wb") as out:
            while block := source.read(BLOCK_BYTES):
                digest.update(block)
                out.write(block)
    except (OSError, http.client.HTTPException) as error:
        raise DataError(f"{url}: cannot be fetched: {error}") from error
    if digest.hexdigest() != md5:
        raise DataError(f"{url}: md5 is {digest.hexdigest()}, should be {md5}; nothing was kept")
    return file


def unpack(archive: Path, url: str) -> None:
    """Unpack a tar or zip archive beside itself; a member that leads out of its folder never gets there."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as packed:
                packed.extractall(archive.parent)
        else:
            with tarfile.open(archive) as tar:
                tar.extractall(archive.parent, filter="data")
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise DataError(f"{url}: cannot be unpacked: {error}") from error
