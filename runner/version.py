"""Which runner this is: the version of the package, and the code that is kept where it runs from a run root."""

from importlib import metadata
from pathlib import Path

import runner
from runner.files import read_json
from runner.launcher import own_snapshot
from runner.rundir import find_experiments, find_trials


def describe_version() -> str:
    """`runner 0.1.0`; of a snapshot also its digest, and the commit by a trial that was submitted with it."""
    try:
        version = metadata.version("runner")
    except metadata.PackageNotFoundError:
        version = runner.__version__
    home = own_snapshot()
    return f"runner {version}{'' if home is None else _describe_code(Path(home))}"


def _describe_code(home: Path) -> str:
    commit = _find_commit(home)
    return f", code {home.name}{f' of commit {commit}' if commit else ''} in {home}"


def _find_commit(home: Path) -> str | None:
    """Where a trial of the run root has that code and was submitted from a git checkout."""
    for experiment in find_experiments(home.parents[1]):
        for run in find_trials(experiment):
            try:
                told = read_json(run.provenance) or {}
            except ValueError:
                continue
            code, git = told.get("snapshot"), told.get("git")
            if isinstance(code, dict) and code.get("code") == home.name and isinstance(git, dict) and git.get("sha"):
                return f"{git['sha']}{' with changes' if git.get('dirty') else ''}"
    return None
