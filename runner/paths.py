"""Files and folders as they are named on the command line: what cannot be meant is refused before any work is done."""

import os
from collections.abc import Callable
from pathlib import Path

from runner.errors import ConfigError

Parse = Callable[[str], Path]


def file_to_write(name: str, example: str, *, makes_folder: bool = False) -> Parse:
    """How the value of an option becomes the path of a file that may be there already, and is replaced then.

    `name` is what the option is called. Its folder must exist, unless `makes_folder`.
    Raises: ConfigError, as all of these, in one line with the option, the value and what is allowed.
    """

    def parse(text: str) -> Path:
        allowed = f"give a file, such as {example}"
        path = _expand(name, text, allowed)
        if path.is_dir() or text.endswith("/"):
            raise ConfigError(f"{name} {text}: is a folder; {allowed}")
        if not makes_folder and not path.parent.exists():
            raise ConfigError(f"{name} {text}: there is no folder {path.parent}; make it, or give another file")
        _check_above(name, text, path)
        return path

    return parse


def file_to_read(name: str, allowed: str) -> Parse:
    """The same for a file that is read; whoever reads it says what is wrong with its content, or that it is missing."""

    def parse(text: str) -> Path:
        path = _expand(name, text, allowed)
        if path.is_dir():
            raise ConfigError(f"{name} {text}: is a folder; {allowed}")
        return path

    return parse


def folder(name: str) -> Parse:
    """The same for a folder that need not exist."""

    def parse(text: str) -> Path:
        path = _expand(name, text, "give a folder")
        if path.exists() and not path.is_dir():
            raise ConfigError(f"{name} {text}: is no folder; give another {name}")
        _check_above(name, text, path)
        return path

    return parse


def _expand(name: str, text: str, allowed: str) -> Path:
    """With the home for `~`, also where the shell has left it alone; an empty text would be the working folder."""
    if not text.strip():
        raise ConfigError(f"{name} {text!r}: is empty; {allowed}")
    path = os.path.expanduser(text)
    if path.startswith("~"):
        raise ConfigError(f"{name} {text}: no home folder is known for {path.partition('/')[0]}; write the path out")
    return Path(path)


def _check_above(name: str, text: str, path: Path) -> None:
    there = next(place for place in (path, *path.parents) if place.exists())
    if there != path and not there.is_dir():
        raise ConfigError(f"{name} {text}: {there} is no folder; give another {name}")
