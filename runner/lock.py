"""Folders that one process at a time may change, on shared file systems too."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from runner.errors import ConfigError
from runner.files import read_json, write_json


@contextmanager
def locked(folder: Path, timeout_seconds: float = 60) -> Iterator[None]:
    """Hold a lock made by mkdir, which is atomic on shared file systems where flock is not.

    A lock whose holder died on this host, or that is older than ten minutes, is taken over.
    """
    lock = folder / ".lock"
    folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            lock.mkdir()
            break
        except FileExistsError:
            if _is_stale(lock):
                _break_lock(lock)
            elif time.monotonic() > deadline:
                raise ConfigError(
                    f"{lock}: held by {_holder(lock)} for {timeout_seconds:.0f} s; remove it if none is running"
                ) from None
            else:
                time.sleep(0.05)
    try:
        write_json(lock / "holder.json", {"host": os.uname().nodename, "pid": os.getpid(), "time": time.time()})
        yield
    finally:
        (lock / "holder.json").unlink(missing_ok=True)
        lock.rmdir()


@contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Keep a folder for this process, which removes it and makes it anew.

    Raises: ConfigError naming the process that has it. One that was killed has it no more.
    """
    place = folder.with_name(f".{folder.name}.owner.json")
    place.parent.mkdir(parents=True, exist_ok=True)
    me = psutil.Process()
    with suppress(FileNotFoundError):
        owner = read_json(place) or {}
        if owner.get("host") == os.uname().nodename and _lives(owner):
            raise ConfigError(f"{folder}: in use by process {owner['pid']}; wait for it, or give another --root")
    write_json(place, {"host": os.uname().nodename, "pid": me.pid, "created": me.create_time()})
    try:
        yield
    finally:
        place.unlink(missing_ok=True)


def _lives(owner: dict[str, Any]) -> bool:
    try:
        return bool(psutil.Process(owner["pid"]).create_time() == owner["created"])
    except psutil.Error:
        return False


def _holder(lock: Path) -> str:
    try:
        holder = read_json(lock / "holder.json") or {}
    except ValueError:
        holder = {}
    return f"process {holder['pid']} on {holder['host']}" if {"pid", "host"} <= holder.keys() else "another `runner`"


def _is_stale(lock: Path) -> bool:
    try:
        age_seconds = time.time() - lock.stat().st_mtime
        holder = read_json(lock / "holder.json")
    except (FileNotFoundError, ValueError):
        return False
    if holder is not None and holder["host"] == os.uname().nodename and not Path(f"/proc/{holder['pid']}").exists():
        return True
    return age_seconds > 600


def _break_lock(lock: Path) -> None:
    # The rename decides who of several waiters breaks the lock.
    grave = lock.with_name(f".lock.stale.{os.getpid()}")
    try:
        os.rename(lock, grave)
    except FileNotFoundError:
        return
    (grave / "holder.json").unlink(missing_ok=True)
    grave.rmdir()
