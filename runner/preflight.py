"""What is looked at before anything is submitted, so that a mistake writes nothing."""

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from runner import slurm
from runner.config import ResourcesConfig, Trial
from runner.errors import ConfigError, DataError, SubmissionError
from runner.experiment import OUTSIDE_IDENTITY, differing_keys, load_trial
from runner.explain import counted
from runner.grouped_yaml import GroupTexts, split_text
from runner.layout import layout
from runner.profile import NODE_LOCAL, Profile
from runner.rundir import RunDir, find_configured

LEAST_FREE_BYTES = 10**9
"""Before the first checkpoint nobody knows how large they are."""

FILES_A_TRIAL = 20
LOOKED_AT = 5
"""Earlier trials of an experiment whose checkpoints are measured."""


def check_scheduler(site: Profile) -> None:
    """Raise SubmissionError where a cluster is asked for that cannot be reached from here."""
    missing = [tool for tool in ("sbatch", "srun") if site.cluster == "slurm" and shutil.which(tool) is None]
    if missing:
        raise SubmissionError(f"{missing[0]} is not on PATH; use --on slurm/local.yaml, or run this on a login node")


def check_shared(root: Path, classes: Iterable[ResourcesConfig], site: Profile) -> None:
    """Raise ConfigError for a run root that the nodes of one trial would each have for themselves."""
    if site.cluster != "slurm":
        return
    nodes = max(layout(resources.ranks, site.gpus_per_node)[0] for resources in classes)
    there = [place for place in NODE_LOCAL if root.is_relative_to(place)]
    if nodes > 1 and there and not slurm.is_one_machine():
        problem = f"is in {there[0]}, which each node has for itself, and a trial takes {nodes} nodes"
        raise ConfigError(f"run root {root}: {problem}; give a --root that they share")


def check_root(root: Path) -> None:
    """Raise ConfigError for a run root that cannot be written; nothing is written to find out."""
    there = next(path for path in (root, *root.parents) if path.exists())
    if not there.is_dir():
        raise ConfigError(f"{there}: is no folder; give another --root")
    if os.statvfs(there).f_flag & os.ST_RDONLY:
        raise ConfigError(f"{there}: is on a file system that is read-only; give another --root")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"{there}: cannot be written; give another --root")


def check_data(sources: Mapping[str, Iterable[Path]], site: Profile) -> None:
    """Raise DataError for data that are not there, by the key that names them.

    On a cluster only where this machine would have them, too: not on disks that nodes have for themselves.
    """
    for key, paths in sources.items():
        for path in map(Path.absolute, paths):
            elsewhere = any(map(path.is_relative_to, NODE_LOCAL)) or not Path(*path.parts[:2]).exists()
            if not path.exists() and not (site.cluster == "slurm" and elsewhere):
                raise DataError(f"{key}: {path} does not exist; put the data there, or say where they are")


def check_space(root: Path, trials: int, kept_bytes: int) -> None:
    """Raise ConfigError where the trials would not fit; one is taken to keep `kept_bytes`."""
    there = next(path for path in (root, *root.parents) if path.exists())
    space = os.statvfs(there)
    # Some file systems do not count files, and report none at all.
    free_files = space.f_favail if space.f_files else None
    if problem := find_shortage(space.f_bavail * space.f_frsize, free_files, trials, kept_bytes):
        raise ConfigError(f"run root {root}: {problem}; free some, or give another --root")


def find_shortage(free_bytes: int, free_files: int | None, trials: int, kept_bytes: int) -> str | None:
    """What there is too little of for so many more trials, in words; None for nothing."""
    needed = max(trials * kept_bytes, LEAST_FREE_BYTES)
    if free_bytes < needed:
        why = f"{counted(trials, 'trial')} of {kept_bytes / 1e9:.2f} GB" if kept_bytes else "the least there should be"
        return f"{free_bytes / 1e9:.2f} GB free, and {why} take {needed / 1e9:.2f} GB"
    if free_files is not None and free_files < trials * FILES_A_TRIAL:
        return f"room for {free_files} more files, and {counted(trials, 'trial')} take about {trials * FILES_A_TRIAL}"
    return None


def measure_kept(folder: Path, keep: int) -> int:
    """What a trial of an experiment keeps at most, from the checkpoints of a few earlier ones; 0 before the first.

    One more than it keeps is there while the next is written.
    """
    runs = [run for run in find_configured(folder) if run.checkpoints.is_dir()][:LOOKED_AT]
    sizes = [sum(file.stat().st_size for file in step.iterdir()) for run in runs for step in newest(run)]
    return max(sizes, default=0) * (keep + 1)


def newest(run: RunDir) -> list[Path]:
    """The folder of the newest checkpoint, if there is one."""
    return sorted(run.checkpoints.glob("step_*"))[-1:]


def check_same(run: RunDir, trial: Trial, texts: GroupTexts | None = None) -> None:
    """Raise ConfigError for a run folder that holds another trial than the one that is called so.

    `texts` has the configs of a sweep's trials.
    """
    if run.path.is_symlink():
        raise ConfigError(f"{run.path}: is a link; run folders are folders")
    if not run.config.exists() or _holds(run, (texts or GroupTexts()).of(resolved(trial))):
        return
    told = differing_keys(load_trial(run.config).model_dump(mode="json"), resolved(trial).model_dump(mode="json"))
    if trial.search is not None:
        # A kill right after the draw leaves a config that does not have it yet.
        drawn = ("search.drawn", *trial.search.parameters)
        told = [line for line in told if line.partition(" ")[0] not in drawn]
    if told:
        more = f" (+{len(told) - 3} more)" if len(told) > 3 else ""
        raise ConfigError(f"{run.config}: is of another trial: {'; '.join(told[:3])}{more}; move its folder away")


def _holds(run: RunDir, texts: dict[str, str]) -> bool:
    """Whether a config says word by word what is expected, settings outside the identity left out."""
    groups = split_text(run.config.read_text(encoding="utf-8", errors="replace"))
    return all(groups.get(key) == text for key, text in texts.items() if key not in OUTSIDE_IDENTITY)


def resolved(trial: Trial) -> Trial:
    """The trial as its run folder keeps it: its paths hold from wherever the job starts."""
    if trial.init_from:
        trial = trial.model_copy(update={"init_from": str(Path(trial.init_from).expanduser().resolve())})
    return trial
