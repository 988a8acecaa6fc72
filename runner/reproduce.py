"""Train a trial again from step 0, in the code it was submitted with, and compare: `runner reproduce`.

What is printed is what runs: `runner debug` on the trial's own config, in a process that imports the trial's snapshot.
"""

import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.code_snapshot import code_of, environment_with
from runner.config import Trial
from runner.errors import ConfigError, RunnerError
from runner.experiment import load_trial
from runner.explain import counted
from runner.files import read_json, read_rows
from runner.launcher import leading
from runner.provenance import DIFF_FILE, FOLDER, describe_commit, package_versions
from runner.rundir import RunDir, find_trials
from runner.search import read_told
from runner.trial_environment import describe_differences, read_environment

REPRODUCED = ".reproduce"
"""Folder of a run root, with a folder for each trial that was trained again."""

ALONE = ("tracking.wandb=null", "rehearse=null")
"""W&B would be told twice, and an interruption on purpose proves nothing here."""


@dataclass(frozen=True)
class Recipe:
    """All that it takes to train a trial again."""

    run: RunDir
    trial: Trial
    code: Path | None
    """Folder of the snapshot; None where the trial has none."""

    python: str
    folder: Path
    """Where the trial was submitted; paths in its config may be relative to it."""

    root: Path
    """Run root of the repetition."""

    provenance: dict[str, Any]
    pruned_step: int | None = None
    """At which its search ended it."""

    @property
    def command(self) -> list[str]:
        ranks = str(self.trial.resources.ranks)
        config = str(self.run.config)
        words = [self.python, "-m", "runner", "debug", config, *ALONE, "--ranks", ranks, "--root", str(self.root)]
        # Alone it has nobody to be compared with, so it would go on.
        return words if self.pruned_step is None else [*words, "--steps", str(self.pruned_step)]

    def lines(self) -> list[str]:
        """The same for a shell, with what else is known in comments."""
        ranks = counted(self.trial.resources.ranks, "rank")
        told = [f"# {self.run.experiment}/{self.run.trial}: {ranks}, seed {self.trial.train.seed}"]
        told += [f"# of commit {commit}" for commit in [describe_commit(self.provenance)] if commit]
        told += [f"# here {line}" for line in self.differences()]
        if self.code is None:
            patch = self.run.path / DIFF_FILE
            then = f", then git apply {shlex.quote(str(patch))}" if patch.exists() else ""
            told.append(f"# it has no snapshot of its code: put that back yourself{then}")
        else:
            told.append(f"export {' '.join(f'{k}={shlex.quote(v)}' for k, v in leading(str(self.code), None).items())}")
        told += [f"cd {shlex.quote(str(self.folder))}", shlex.join(self.command)]
        return [*told, *self._as_a_job()]

    def differences(self) -> list[str]:
        """In which versions this machine differs from that of the submission."""
        return describe_differences(dict(self.provenance.get("packages") or {}), package_versions())

    def _as_a_job(self) -> list[str]:
        jobs = self.run.job_rows()
        if not jobs or jobs[-1]["cluster"] == "local":
            return []
        profile = str(Path(jobs[-1]["submission"]) / "profile.yaml")
        words = [self.python, "-m", "runner", "submit", str(self.run.config), *ALONE, "--on", profile]
        return ["# or where it ran:", f"# {shlex.join([*words, '--root', str(self.root)])}"]


def read_recipe(run: RunDir, root: Path | None = None) -> Recipe:
    """How to train a trial again, below `root` or else in a folder of its own beside the experiments.

    Raises: ConfigError for a config that cannot be read, and for code that is gone.
    """
    run = RunDir(run.path.resolve())
    provenance, told = read_json(run.provenance) or {}, read_told(run)
    folder = Path(provenance.get(FOLDER) or ".")
    python = provenance.get("executable") or sys.executable
    return Recipe(
        run,
        load_trial(run.config),
        code_of(run),
        python if os.access(python, os.X_OK) else sys.executable,
        folder if folder.is_dir() else Path.cwd(),
        (root or run.path.parents[1] / REPRODUCED / run.experiment / run.trial).resolve(),
        provenance,
        told.pruned_step if told else None,
    )


@dataclass(frozen=True)
class Comparison:
    """What came of a repetition."""

    equal: bool
    text: str
    reasons: tuple[str, ...] = ()
    """What was not the same, where the result is not."""


def reproduce(recipe: Recipe) -> Comparison:
    """Train the trial again and compare; its own folder is only read.

    Raises: ConfigError for a trial without a snapshot; RunnerError when it cannot be trained.
    """
    if recipe.code is None:
        words = "it has no snapshot of its code; see what to do without --run"
        raise ConfigError(f"trial {recipe.run.trial}: {words}")
    code = _call(recipe)
    found = find_trials(recipe.root / ".debug" / recipe.trial.name)
    if code or len(found) != 1 or not found[0].result.exists():
        raise RunnerError(f"{recipe.run.trial} could not be trained again: exit code {code}")
    return compare(recipe.run, found[0])


def _call(recipe: Recipe) -> int:
    environment = environment_with(recipe.code, dict(os.environ))
    with subprocess.Popen(recipe.command, cwd=recipe.folder, env=environment) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            # It reaches that process, too, which ends its ranks first.
            process.wait()
            raise


def compare(run: RunDir, again: RunDir) -> Comparison:
    """Whether a repetition that is done came to the same: fingerprints, or as many metrics as the trial has."""
    own, other = read_json(run.result), read_json(again.result)
    assert other is not None, again
    difference = first_difference(read_rows(run.metrics), read_rows(again.metrics))
    if own is None and difference is None:
        rows = read_rows(run.metrics)
        return Comparison(True, f"equal so far, to step {rows[-1]['step'] if rows else 0}; the trial is not done")
    if own is not None and own.get("fingerprint") == other["fingerprint"]:
        return Comparison(True, f"equal in every bit after {other['step']} steps: {other['fingerprint'][:12]}")
    reasons = [*describe_differences(read_environment(run), read_environment(again)), *_inexact(run)]
    return Comparison(
        False,
        f"NOT equal: {difference or 'the metrics are, the fingerprints are not'}",
        tuple(reasons or ["nothing that is recorded differs"]),
    )


def first_difference(rows: list[dict[str, Any]], again: list[dict[str, Any]]) -> str | None:
    """The first of the rows of metrics.jsonl that a repetition does not have just so; None when it has them all."""
    by_step = {row["step"]: row for row in again}
    for row in rows:
        other = by_step.get(row["step"])
        if other is None:
            return f"there is no step {row['step']}"
        for key in row:
            # Not a number is not equal to itself.
            if key not in ("time", "attempt") and repr(row[key]) != repr(other.get(key)):
                return f"at step {row['step']} {key} was {row[key]}, is {other.get(key)}"
    return None


def _inexact(run: RunDir) -> list[str]:
    """The attempts of a trial that did not go on bit for bit."""
    return [
        f"attempt {row['attempt']} went on with exact: {row['exact']}"
        for row in run.attempt_rows()
        if row["event"] == "start" and row.get("exact") not in (None, "yes")
    ]
