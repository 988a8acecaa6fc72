"""The code of a submission, kept beside its run folders: what every attempt runs, whatever is edited afterwards.

ROOT/.code/<digest>/runner is a copy of the package as it was imported: with uncommitted changes and files that git
does not know, such as a method of the user's own. The digest is of the content, so all trials of a submission share
one copy, and so do later submissions of the same code. A trial names its copy in provenance.json.
"""

import ctypes
import hashlib
import os
import re
import shlex
import shutil
import uuid
from contextlib import suppress
from pathlib import Path

from runner import launcher
from runner.errors import ConfigError
from runner.files import check_private, read_json, sync_path
from runner.launcher import CODE, leading, own_snapshot
from runner.rundir import RunDir

PACKAGE = Path(__file__).parent

LARGEST_FILE_BYTES = 4 * 2**20
"""More is no code: a copy for every edit would fill the disk."""

SAMPLES = "experiments"
"""Folder beside the package with the data that it is shipped with; a snapshot has a link to it."""

_DIGEST = re.compile(r"[0-9a-f]{12}")


def read_package(package: Path = PACKAGE) -> dict[str, bytes]:
    """The content of every file of a package, by its path in it; without what Python compiled, and hidden files.

    Raises: ConfigError for a file that is too large to be code.
    """
    files = {}
    for folder, names, found in os.walk(package, followlinks=True):
        names[:] = [name for name in names if name != "__pycache__" and name[0] != "." and _is_code(folder, name)]
        for name in found:
            path = os.path.join(folder, name)
            if name[0] == "." or name.endswith(".pyc") or not os.path.exists(path):
                continue
            with open(path, "rb") as file:
                content = file.read(LARGEST_FILE_BYTES + 1)
            if len(content) > LARGEST_FILE_BYTES:
                limit = f"a file of the code has {LARGEST_FILE_BYTES // 2**20} MiB at most"
                raise ConfigError(f"{path}: {limit}, since submissions copy it; move it out of the package")
            files[os.path.relpath(path, package)] = content
    return dict(sorted(files.items()))


def _is_code(folder: str, name: str) -> bool:
    """Whether a folder is to be copied: of links those to packages, which Python follows, too, and that have an end."""
    path = os.path.join(folder, name)
    if not os.path.islink(path):
        return True
    leads_back = Path(path).resolve() in {above.resolve() for above in (Path(folder), *Path(folder).parents)}
    return os.path.exists(os.path.join(path, "__init__.py")) and not leads_back


def digest(files: dict[str, bytes]) -> str:
    """The name of code: 12 hex digits that change with every edit."""
    found = hashlib.sha256()
    for name, content in files.items():
        found.update(name.encode() + b"\0" + content + b"\0")
    return found.hexdigest()[:12]


def home_of(root: Path, name: str) -> Path:
    """The folder for the code of that digest, which is put before everything else on Python's path.

    Raises: ConfigError for a run root that cannot stand there.
    """
    home = root.resolve() / CODE / name
    if os.pathsep in str(home):
        problem = f"has {os.pathsep!r} in it, and Python finds no code there"
        raise ConfigError(f"run root {home.parents[1]}: {problem}; give another, or say snapshot: false in the profile")
    return home


def planned_home(root: Path) -> Path:
    """Where `take` would put a snapshot; nothing is written."""
    return home_of(root, digest(read_package()))


def take(root: Path, package: Path = PACKAGE) -> Path:
    """Put a snapshot of a package under a run root, unless it is there; its folder.

    It comes by a rename, so nobody sees a part of it, and of two at once either does. What a power loss has left
    with other sizes is written again. Raises: ConfigError where others could change it.
    """
    files = read_package(package)
    home = home_of(root, digest(files))
    if not _is_whole(home, files):
        _write(home, files)
    check_private(home / "runner", home.parents[1])
    samples = (package.parent / SAMPLES).resolve()
    if samples.is_dir() and not (home / SAMPLES).is_dir():
        _link(home / SAMPLES, samples)
    os.utime(home)
    return home


def code_of(run: RunDir) -> Path | None:
    """The folder with the code of a trial; None where it runs whatever is imported.

    Raises: ConfigError when it is gone.
    """
    try:
        named = (read_json(run.provenance) or {}).get("snapshot")
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if named is None:
        return None
    name = str(named.get("code")) if isinstance(named, dict) else str(named)
    if not _DIGEST.fullmatch(name):
        raise ConfigError(f"{run.provenance}: snapshot.code: {name[:40]!r} is not allowed; must be 12 hex digits")
    home = home_of(run.path.parents[1], name)
    if not (home / "runner").is_dir():
        words = f"trial {run.trial}: its code is gone from {home}"
        raise ConfigError(f"{words}; put it back, or go on with today's: runner retry {run.trial} --code current")
    return home


def describe(home: Path) -> dict[str, str]:
    """What provenance.json says of a snapshot."""
    return {"code": home.name, "path": str(home)}


def check_own_code() -> None:
    """Raise ConfigError where this process runs from a snapshot that others could change by now."""
    home = own_snapshot()
    if home is not None:
        check_private(Path(home) / "runner", Path(home).parents[1])


def launcher_of(home: Path | None) -> Path:
    """The launcher that starts the code of a snapshot, or else what is imported here."""
    return Path(launcher.__file__) if home is None else home / "runner" / "launcher.py"


def environment_with(home: Path | None, environment: dict[str, str]) -> dict[str, str]:
    """The environment for a python that is to import the code of a snapshot."""
    return environment if home is None else environment | leading(str(home), environment.get("PYTHONPATH"))


def shell_check(home: Path) -> list[str]:
    """Lines of a batch script that end it where others could change the code, before any of it runs."""
    root, folder, place = (shlex.quote(str(path)) for path in (home.parents[1], home.parent, home))
    writable = "-perm /022"
    # As launcher.find_intruder, which is itself code that must not have been changed.
    return [
        "open=$({",
        f'  find -H {root} {folder} -maxdepth 0 \\( ! -uid "$EUID" ! -uid 0 -o {writable} ! -perm -1000 \\)',
        f'  find -H {place} -ignore_readdir_race ! -type l \\( ! -uid "$EUID" -o {writable} \\) -print -quit',
        "} 2>&1)",
        '[ -z "$open" ] || {',
        '  echo "runner: code is gone, or others could change it; chmod -R go-w it: $open" >&2',
        "  exit 2",
        "}",
    ]


def shell_words(home: Path) -> str:
    """What stands before a python on a line of shell, so that it imports the code of a snapshot."""
    return f'PYTHONSAFEPATH=1 PYTHONPATH={shlex.quote(str(home))}"${{PYTHONPATH:+:$PYTHONPATH}}"'


def _is_whole(home: Path, files: dict[str, bytes]) -> bool:
    try:
        return all((home / "runner" / name).stat().st_size == len(content) for name, content in files.items())
    except OSError:
        return False


def _write(home: Path, files: dict[str, bytes]) -> None:
    home.parent.mkdir(exist_ok=True)
    beside = home.with_name(f".{home.name}.{uuid.uuid4().hex}")
    try:
        for name, content in files.items():
            path = beside / "runner" / name
            # Python makes these folders by the umask of whoever imports first, which may let others write there.
            (path.parent / "__pycache__").mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        _sync_disk(beside)
        if home.exists() and not _is_whole(home, files):
            home.rename(beside.with_name(f"{beside.name}.torn"))
        # Another submission of the same code may have been first.
        with suppress(OSError):
            beside.rename(home)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    sync_path(home.parent)


def _sync_disk(folder: Path) -> None:
    """One call for all files of a disk: an fsync of each takes a second."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        ctypes.CDLL(None).syncfs(descriptor)
    finally:
        os.close(descriptor)


def _link(place: Path, target: Path) -> None:
    beside = place.with_name(f".{place.name}.{uuid.uuid4().hex}")
    beside.symlink_to(target)
    beside.replace(place)
