"""Folders that one process at a time may change, on shared file systems too."""

import errno
import os
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from runner.errors import ConfigError
from runner.files import read_json, write_json
from runner.processes import is_alive, looking

SILENT_SECONDS = 600
"""After so long without a sign of life from another host a lock is taken over."""

SIGN_SECONDS = 60
"""From one sign of life to the next; file systems may tell others of it a minute late."""

LITTER_SECONDS = 24 * 60 * 60
"""What is left of broken locks stays so long: whoever saw one may come to break it much later."""

HOLDER = "holder.json"


@contextmanager
def locked(folder: Path, timeout_seconds: float = 60) -> Iterator[None]:
    """Hold a lock that a rename makes, which is atomic on shared file systems where flock is not.

    A lock whose holder died on this host, or gave no sign of life from another for ten minutes, is taken over; one
    whose holder lives here is waited for, however old. Raises: ConfigError when it is not free in time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock, token = folder / ".lock", secrets.token_hex(8)
    own = lock.with_name(f".lock.{token}")
    own.mkdir()
    try:
        write_json(own / HOLDER, {**_describe_process(), "time": time.time(), "token": token})
        _take(lock, own, timeout_seconds)
    except BaseException:
        shutil.rmtree(own, ignore_errors=True)
        raise
    try:
        with _giving_signs(lock):
            yield
    finally:
        if token_of(lock) == token and bury(lock, token):
            shutil.rmtree(_grave(lock, token), ignore_errors=True)


@contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Keep a folder for this process, which removes it and makes it anew.

    Raises: ConfigError naming the process that has it. One that was killed has it no more.
    """
    place = folder.with_name(f".{folder.name}.owner.json")
    place.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        owner = read_json(place) or {}
        if owner.get("host") == os.uname().nodename and is_alive(owner["pid"], owner["created"]):
            raise ConfigError(f"{folder}: in use by process {owner['pid']}; wait for it, or give another --root")
    write_json(place, _describe_process())
    try:
        yield
    finally:
        place.unlink(missing_ok=True)


def find_stale(lock: Path) -> str | None:
    """The token of a lock that is there and whose holder is not; None while somebody holds it, or nobody."""
    try:
        status, holder = lock.stat(), read_json(lock / HOLDER) or {}
    except (FileNotFoundError, ValueError):
        return None
    token = holder.get("token") or f"{status.st_ino}.{status.st_mtime_ns}"
    if holder.get("host") == os.uname().nodename:
        if not is_alive(holder["pid"], holder.get("created")):
            return str(token)
        if "created" in holder:
            return None
    return str(token) if time.time() - status.st_mtime > SILENT_SECONDS else None


def bury(lock: Path, token: str) -> bool:
    """Take away the lock of this token, once: what bears the name later is another's, and stays.

    Its grave is called by the token and not empty, so that no second rename to there succeeds.
    """
    try:
        os.rename(lock, _grave(lock, token))
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY):
            raise
        return False
    return True


def token_of(lock: Path) -> str | None:
    """Whose lock it is; None when there is none, or nobody's name in it."""
    try:
        return (read_json(lock / HOLDER) or {}).get("token")
    except (OSError, ValueError):
        return None


def _take(lock: Path, own: Path, timeout_seconds: float) -> None:
    """Call `own` the lock once there is no other: a rename replaces no folder that has something in it."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            os.rename(own, lock)
            return
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
        if (token := find_stale(lock)) is not None:
            bury(lock, token)
            _clear(lock)
        elif time.monotonic() > deadline:
            held = f"held by {_holder(lock)} for {timeout_seconds:.0f} s"
            raise ConfigError(f"{lock}: {held}; remove it if none is running")
        else:
            time.sleep(0.05)


@contextmanager
def _giving_signs(lock: Path) -> Iterator[None]:
    """Renew the time of a lock for as long as this process runs, whatever the lock is called by then."""
    descriptor = os.open(lock, os.O_RDONLY | os.O_DIRECTORY)

    def give_sign() -> None:
        with suppress(OSError):
            os.utime(descriptor)

    def give_signs(over: threading.Event) -> None:
        while not over.wait(SIGN_SECONDS):
            give_sign()

    # The folder is as old as the wait for the lock was long.
    give_sign()
    try:
        with looking(give_signs, "lock"):
            yield
    finally:
        os.close(descriptor)


def _describe_process() -> dict[str, Any]:
    me = psutil.Process()
    return {"host": os.uname().nodename, "pid": me.pid, "created": me.create_time()}


def _holder(lock: Path) -> str:
    try:
        holder = read_json(lock / HOLDER) or {}
    except ValueError:
        holder = {}
    return f"process {holder['pid']} on {holder['host']}" if {"pid", "host"} <= holder.keys() else "another `runner`"


def _grave(lock: Path, token: str) -> Path:
    return lock.with_name(f".lock.stale.{token}")


def _clear(lock: Path) -> None:
    """Remove what broken locks, and those who were killed waiting, left a day ago."""
    for place in lock.parent.glob(".lock.*"):
        with suppress(OSError):
            if time.time() - place.stat().st_mtime > LITTER_SECONDS:
                shutil.rmtree(place)
