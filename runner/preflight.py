"""What is looked at before anything is submitted, so that a mistake writes nothing."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from runner import slurm
from runner.config import ResourcesConfig, Trial
from runner.errors import ConfigError, SubmissionError
from runner.experiment import OUTSIDE_IDENTITY, differing_keys, load_trial
from runner.grouped_yaml import GroupTexts, split_text
from runner.profile import NODE_LOCAL, Profile, layout
from runner.rundir import RunDir


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


def check_same(run: RunDir, trial: Trial, texts: GroupTexts | None = None) -> None:
    """Raise ConfigError for a run folder that holds another trial than the one that is called so.

    `texts` has the configs of a sweep's trials.
    """
    if run.path.is_symlink():
        raise ConfigError(f"{run.path}: is a link; run folders are folders")
    if not run.config.exists() or _holds(run, (texts or GroupTexts()).of(resolved(trial))):
        return
    told = differing_keys(load_trial(run.config).model_dump(mode="json"), resolved(trial).model_dump(mode="json"))
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
