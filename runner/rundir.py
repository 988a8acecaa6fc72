"""Every path inside a run folder, and how run folders are found.

ROOT/<experiment>/<trial id>/ is the truth about a trial; schedulers and trackers are hints and mirrors.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.errors import ConfigError
from runner.files import GROUP_READABLE, PRIVATE, read_rows
from runner.strict_yaml import one_line

_NOT_IN_PATHS = "%\\"
"""submitit and Slurm expand `%j` in the names of files, and a backslash changes how."""

_ID = re.compile(r"[0-9a-f]{10}")
_LATER = (
    *("attempts.jsonl", "jobs.jsonl", "metrics.jsonl", "checkpoints"),
    *("result.json", "failure.json", "cancelled.json"),
)
"""What is written after config.yaml, and so by no submission that was killed before that."""


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
    def search(self) -> Path:
        """What a search told the trial: {"study", "number", "parameters"}, and {"pruned_step"} once it is pruned."""
        return self.path / "search.json"

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

    def readings(self, attempt: int) -> Path:
        """Where the time of an attempt had gone, a JSON row at each checkpoint and evaluation; see runner.ledger."""
        return self.token(attempt) / "readings.jsonl"

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


def experiment_dir(root: Path, experiment: str) -> Path:
    """The folder of an experiment; raises ConfigError for a run root that no job could be told by its path."""
    path = str(root)
    if bad := next((char for char in path if not char.isprintable() or char in _NOT_IN_PATHS), ""):
        raise ConfigError(f"run root {one_line(path)}: has {bad!r} in it; a root has no control characters, % or \\")
    return root / experiment


def find_experiments(root: Path) -> list[Path]:
    """Folders under the run root that hold at least one trial."""
    if not root.is_dir():
        return []
    return [path for path in sorted(root.iterdir()) if path.is_dir() and not path.is_symlink() and find_trials(path)]


def find_trials(experiment: Path) -> list[RunDir]:
    """The trials of one experiment folder, by id, even those whose config is gone."""
    return [run for run in _list_folders(experiment) if has_config(run) or _is_evident(run)]


def find_configured(experiment: Path) -> list[RunDir]:
    """The trials of one experiment folder that have a config: a submission makes any other anew."""
    return [run for run in _list_folders(experiment) if has_config(run)]


def has_config(run: RunDir) -> bool:
    """Whether there is a config, whatever it holds; of a folder that is closed to us we see none."""
    return os.path.exists(f"{run.path}/config.yaml")


def is_closed(run: RunDir) -> bool:
    """Whether we may not look into the folder, let alone write there."""
    return run.path.is_dir() and not os.access(run.path, os.X_OK)


def _list_folders(experiment: Path) -> list[RunDir]:
    """Hidden folders belong to the runner itself."""
    if not experiment.is_dir():
        return []
    with os.scandir(experiment) as entries:
        names = sorted(e.name for e in entries if e.is_dir(follow_symlinks=False) and e.name[0] != ".")
    return [RunDir(experiment / name) for name in names]


def _is_evident(run: RunDir) -> bool:
    """Whether a folder without a config is a trial's: by what was written later, or by its name if it is closed."""
    if is_closed(run):
        return _ID.fullmatch(run.trial) is not None
    return any(os.path.exists(f"{run.path}/{name}") for name in _LATER)


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
    more = "write EXPERIMENT/ID" if len({run.trial for run in found}) == 1 else "give more of the id"
    raise ConfigError(f"trial {prefix!r}: {len(found)} trials start with it: {names}; {more}")


def find_sweep(root: Path, name: str) -> Path:
    """The folder of an experiment, by its name under the run root or by its path.

    Raises: ConfigError when there is no such experiment.
    """
    _check_name("sweep", name)
    for folder in (root / name, Path(name)):
        if not folder.is_symlink() and find_trials(folder):
            return folder.resolve()
    raise ConfigError(f"sweep {name!r}: no trials of that name under {root}; there is: {_known(root)}")


def find_target(root: Path, name: str) -> list[RunDir]:
    """The trials of an experiment, else the one trial of that id; raises ConfigError where there is neither."""
    try:
        return find_trials(find_sweep(root, name))
    except ConfigError:
        try:
            return [find_trial(root, name)]
        except ConfigError as no_trial:
            # Several trials are a closer miss than no experiment.
            if "trials start with" in str(no_trial):
                raise
            neither = f"{name!r}: neither an experiment nor the start of a trial's id under {root}"
            raise ConfigError(f"{neither}; there is: {_known(root)}") from None


def _known(root: Path) -> str:
    return ", ".join(path.name for path in find_experiments(root)) or "none yet"


def _check_name(kind: str, name: str) -> None:
    """Raise ConfigError for a name that would lead out of the run root; a path says so from its start."""
    if not name.strip():
        raise ConfigError(f"{kind} {name!r}: is empty; `runner status` lists what there is")
    if not name.isprintable() or ".." in Path(name).parts:
        raise ConfigError(f"{kind} {name!r}: must be a name, or a path without .. and control characters")
