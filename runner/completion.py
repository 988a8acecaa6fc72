"""What the shell completes: experiments, profiles, trials, plug-ins. Reads names only, and never imports torch.

An empty answer leaves the word to the shell, which completes names of files.
"""

import os
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import typer

from runner import plugins

LIMIT = 500
"""More would scroll away, and take longer than the press of a key should."""


def experiment_files(incomplete: str) -> list[str]:
    """YAML files here, and below experiments/."""
    here = [path for path in Path().glob("*.yaml") if not path.name.startswith(".")]
    return _starting(incomplete, sorted(str(path) for path in [*here, *Path("experiments").rglob("*.yaml")]))


def profiles(incomplete: str) -> list[str]:
    """Profiles by name, of this folder and of the package."""
    folders = [Path("slurm"), Path(__file__).parent.parent / "slurm"]
    return _starting(incomplete, sorted({path.stem for folder in folders for path in folder.glob("*.yaml")}))


def sweeps(context: typer.Context, incomplete: str) -> list[str]:
    """Experiments with run folders."""
    return _starting(incomplete, _folders(_root(context)))


def trials(context: typer.Context, incomplete: str) -> list[str]:
    """Trials by id, or by EXPERIMENT/ID once the experiment is typed."""
    root = _root(context)
    experiment, slash, start = incomplete.rpartition("/")
    sweeps = [experiment] if slash else _folders(root)
    return [f"{experiment}{slash}{name}" for name in _starting(start, (n for s in sweeps for n in _folders(root / s)))]


def targets(context: typer.Context, incomplete: str) -> list[str]:
    """Experiments and trials."""
    return [*sweeps(context, incomplete), *trials(context, incomplete)]


def plug_ins(context: typer.Context, incomplete: str) -> list[str]:
    """Those of the family that stands before."""
    family = str(context.params.get("kind"))
    return _starting(incomplete, plugins.find(family)) if family in plugins.FAMILIES else []


def _starting(incomplete: str, names: Iterable[str]) -> list[str]:
    return list(islice((name for name in names if name.startswith(incomplete)), LIMIT))


def _folders(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(folder) if entry.name[0] != "." and entry.is_dir())
    except OSError:
        return []


def _root(context: typer.Context) -> Path:
    given = [each.params.get("root") for each in (context, context.parent) if each is not None]
    return Path(next(filter(None, given), None) or os.environ.get("RUNNER_ROOT") or "runs")
