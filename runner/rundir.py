"""Every path and file format inside a run folder, and the few ways to write them without tearing.

ROOT/<experiment>/<trial id>/ is the truth about a trial; schedulers and trackers are hints and mirrors.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from runner.errors import ConfigError
from runner.launcher import find_intruder
from runner.strict_yaml import dump_yaml, one_line

_NOT_IN_PATHS = "%\\"
"""submitit and Slurm expand `%j` in the names of files, and a backslash changes how."""


PRIVATE, GROUP_READABLE = 0o077, 0o027
"""The umask of all that is written: for the user alone, or, where the site asks for it, to be read by the group."""


@dataclass(frozen=True)
class RunDir:
    """The folder of one trial."""

    path: Path

    @property
    def trial(self) -> str:
        return self.path.name

    @property
    def experiment(self) -> str:
        return self.path.parent.name

    @property
    def config(self) -> Path:
        """The resolved config, as YAML."""
        return self.path / "config.yaml"

    @property
    def overrides(self) -> Path:
        """What the sweep set, as YAML."""
        return self.path / "overrides.yaml"

    @property
    def provenance(self) -> Path:
        return self.path / "provenance.json"

    @property
    def tokenizer(self) -> Path:
        """What made the token ids that the trial is trained on, where the data have a choice."""
        return self.path / "tokenizer.json"

    @property
    def attempts(self) -> Path:
        """One JSON row at each start and each end of an attempt."""
        return self.path / "attempts.jsonl"

    @property
    def jobs(self) -> Path:
        """One JSON row for each submission: when, to which cluster, as which job."""
        return self.path / "jobs.jsonl"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def result(self) -> Path:
        """Written last; a trial is done when it exists."""
        return self.path / "result.json"

    @property
    def failure(self) -> Path:
        """Written when the trial failed for good."""
        return self.path / "failure.json"

    @property
    def cancelled(self) -> Path:
        """Written before a job is cancelled, so that nothing requeues it afterwards."""
        return self.path / "cancelled.json"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    def log(self, attempt: int, rank: int) -> Path:
        return self.logs / f"attempt_{attempt:03d}.rank_{rank}.log"

    def token(self, attempt: int) -> Path:
        """The folder whose creation made this attempt; it also holds what the attempt's ranks tell each other."""
        return self.path / "tokens" / f"{attempt:05d}"

    def launch_note(self, launch: str) -> Path:
        """Where rank 0 of a launch leaves word for the others: {"attempt", "host", "port", "nonce"}."""
        return self.path / "tokens" / f"launch.{launch}.json"

    def crash(self, attempt: int, rank: int) -> Path:
        """Why a rank of an attempt died: {"cause", "error", "rank", "step", "traceback", "time"}."""
        return self.token(attempt) / f"crash.rank_{rank}.json"

    def beat(self, attempt: int, rank: int) -> Path:
        """The last sign of life of a rank; see runner.heartbeat."""
        return self.token(attempt) / f"heartbeat.rank_{rank}.json"

    def hang(self, attempt: int) -> Path:
        """Which rank the others waited for in vain: {"rank", "step", "error", "time"}."""
        return self.token(attempt) / "hang.json"

    def dumped(self, attempt: int, rank: int) -> Path:
        """Exists once a rank of an attempt that hangs has written its stacks."""
        return self.token(attempt) / f"dumped.rank_{rank}"

    def saved(self, attempt: int) -> Path:
        """The newest checkpoint that an attempt is known to have written: {"step"}."""
        return self.token(attempt) / "saved.json"

    def attempt_rows(self) -> list[dict[str, Any]]:
        return read_rows(self.attempts)

    def job_rows(self) -> list[dict[str, Any]]:
        return read_rows(self.jobs)

    def umask(self) -> int:
        """For files in it: as readable as the folder itself is, so that every job and verb does alike."""
        return GROUP_READABLE if self.path.stat().st_mode & 0o077 == 0o050 else PRIVATE


@contextmanager
def masked(umask: int) -> Iterator[None]:
    """What is made inside gets its permissions by this umask."""
    before = os.umask(umask)
    try:
        yield
    finally:
        os.umask(before)


def experiment_dir(root: Path, experiment: str) -> Path:
    """The folder of an experiment; raises ConfigError for a run root that no job could be told by its path."""
    path = str(root)
    if bad := next((char for char in path if not char.isprintable() or char in _NOT_IN_PATHS), ""):
        raise ConfigError(f"run root {one_line(path)}: has {bad!r} in it; a root has no control characters, % or \\")
    return root / experiment


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


def find_experiments(root: Path) -> list[Path]:
    """Folders under the run root that hold at least one trial."""
    if not root.is_dir():
        return []
    return [path for path in sorted(root.iterdir()) if path.is_dir() and not path.is_symlink() and find_trials(path)]


def find_trials(experiment: Path) -> list[RunDir]:
    """The trials of one experiment folder, by id. Hidden folders belong to the runner itself."""
    if not experiment.is_dir():
        return []
    with os.scandir(experiment) as entries:
        names = sorted(e.name for e in entries if e.is_dir(follow_symlinks=False) and e.name[0] != ".")
    return [RunDir(experiment / name) for name in names if (experiment / name / "config.yaml").exists()]


def find_trial(root: Path, prefix: str) -> RunDir:
    """The one trial whose id starts with `prefix`; also accepts a path or EXPERIMENT/PREFIX.

    Raises: ConfigError when there is none, or more than one.
    """
    _check_name("trial", prefix)
    if (Path(prefix) / "config.yaml").exists():
        return RunDir(Path(prefix).resolve())
    experiment, _, start = prefix.rpartition("/")
    folders = [root / experiment] if experiment else find_experiments(root)
    found = [run for folder in folders for run in find_trials(folder) if start and run.trial.startswith(start)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise ConfigError(f"trial {prefix!r}: no trial under {root} starts with it; `runner status` lists them")
    names = ", ".join(f"{run.experiment}/{run.trial}" for run in found[:4])
    raise ConfigError(f"trial {prefix!r}: {len(found)} trials start with it: {names}; give more of the id")


def find_sweep(root: Path, name: str) -> Path:
    """The folder of an experiment, by its name under the run root or by its path.

    Raises: ConfigError when there is no such experiment.
    """
    _check_name("sweep", name)
    for folder in (root / name, Path(name)):
        if not folder.is_symlink() and find_trials(folder):
            return folder.resolve()
    known = ", ".join(path.name for path in find_experiments(root)) or "none yet"
    raise ConfigError(f"sweep {name!r}: no trials of that name under {root}; there is: {known}")


def _check_name(kind: str, name: str) -> None:
    """Raise ConfigError for a name that would lead out of the run root; a path says so from its start."""
    if not name.isprintable() or ".." in Path(name).parts:
        raise ConfigError(f"{kind} {name!r}: must be a name, or a path without .. and control characters")


def read_json(path: Path) -> dict[str, Any] | None:
    """The document, or None when the file does not exist. Raises: ValueError, naming it, without a JSON mapping."""
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        raise ValueError(f"{path}: holds no JSON") from None
    if not isinstance(document, dict):
        raise ValueError(f"{path}: holds no mapping")
    return document


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file; a torn last line (killed while writing) is left out."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
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
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Write a file beside its place, fsync it, rename it: readers see the old file or the whole new one.

    Raises: OSError that names the file itself, and not the one beside it.
    """
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
    sync_path(path.parent)


def write_json(path: Path, document: dict[str, Any]) -> None:
    with replacing(path) as file:
        file.write(json.dumps(document, indent=2, default=str).encode() + b"\n")


def write_yaml(path: Path, document: dict[str, Any]) -> None:
    with replacing(path) as file:
        file.write(dump_yaml(document).encode())


def sync_path(path: Path) -> None:
    """fsync a file, or a folder so that a rename in it survives a power loss."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
