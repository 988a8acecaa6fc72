"""What a trial was made from: code, packages, machine and command line, with every secret masked."""

import getpass
import importlib.metadata
import os
import platform
import secrets
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from runner import plugins
from runner.code_snapshot import describe, take
from runner.files import link, read_json, replacing, write_json
from runner.masking import is_secret_name, mask_command, mask_text
from runner.rundir import RunDir

PACKAGES = [
    "runner",
    "torch",
    "submitit",
    "numpy",
    "pydantic",
    "pyyaml",
    "wandb",
    "scikit-learn",
    "transformers",
    "psutil",
    "matplotlib",
    "triton",
    "nvidia-nccl-cu12",
    "nvidia-nccl-cu13",
]
"""Distributions whose versions may change a result."""

DIFF_FILE = "diff.patch"
"""Name, beside provenance.json, of the file for the patch."""

NONCE = "nonce"
"""In provenance.json, what tells a run folder from others of the same trial, at other times or in other places."""

FOLDER = "folder"
"""In provenance.json, where a trial was submitted: what relative paths of its config are relative to."""

LARGEST_DIFF_BYTES = 2_000_000


def collect(command: list[str], snapshot_in: Path | None = None) -> tuple[dict[str, Any], str]:
    """The content of provenance.json, and the uncommitted changes of the code as a patch (empty without any).

    `command` is the command line as typed. With `snapshot_in`, a run root, the code is kept
    there. Of the environment only SLURM_* and CUDA_VISIBLE_DEVICES are kept.
    """
    root = _checkout()
    patch = _diff(root) if root else ""
    document = {
        "time": time.time(),
        NONCE: secrets.token_hex(4),
        "command": mask_command(command),
        "git": _git_facts(root) | {"diff": DIFF_FILE if patch else None} if root else None,
        "snapshot": describe(take(snapshot_in)) if snapshot_in else None,
        "executable": sys.executable,
        "python": platform.python_version(),
        "packages": package_versions(),
        "host": platform.node(),
        "platform": platform.platform(),
        "user": _user(),
        FOLDER: mask_text(os.getcwd()),
        "environment": _kept_environment(os.environ),
    }
    return document, patch


def enter_folder(run: RunDir) -> None:
    """Go where a trial was submitted, if that can be seen from here: whoever starts it may stand elsewhere."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        os.chdir((read_json(run.provenance) or {})[FOLDER])


def write_origin(run: RunDir, origin: tuple[dict[str, Any], str], like: RunDir | None = None) -> None:
    """Put what `collect` found into a run folder.

    `like` is a folder that has it already: these files are replaced and never changed, so the two may share them.
    """
    provenance, diff = origin
    if diff and (like is None or not link(like.path / DIFF_FILE, run.path / DIFF_FILE)):
        with replacing(run.path / DIFF_FILE) as file:
            file.write(diff.encode())
    if like is None or not link(like.provenance, run.provenance):
        write_json(run.provenance, provenance)


def describe_commit(provenance: dict[str, Any]) -> str | None:
    """The commit that the code was, in words; None where it was no git checkout."""
    git = provenance.get("git") or {}
    if not git.get("sha"):
        return None
    changed = f", changed since ({DIFF_FILE})" if git.get("diff") else ", with files that git does not know"
    return f"{git['sha']}{changed if git.get('dirty') else ''}"


def _kept_environment(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name: mask_text(value)
        for name, value in sorted(environment.items())
        if (name.startswith("SLURM_") or name == "CUDA_VISIBLE_DEVICES") and not is_secret_name(name)
    }


def package_versions() -> dict[str, str]:
    """Of what is installed here of PACKAGES, and of every package that offers plug-ins."""
    versions = plugins.packages()
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _git_facts(root: Path) -> dict[str, Any]:
    """Which commit the code is, and whether it was changed since."""
    changes = (_git(root, "status", "--porcelain") or "").splitlines()
    return {
        "root": str(root),
        "sha": (_git(root, "rev-parse", "HEAD") or "").strip() or None,
        "branch": (_git(root, "rev-parse", "--abbrev-ref", "HEAD") or "").strip() or None,
        "dirty": bool(changes),
        "untracked": [mask_text(line[3:]) for line in changes if line.startswith("??")],
    }


def _diff(root: Path) -> str:
    text = _git(root, "diff", "HEAD", "--no-color", "--no-ext-diff") or ""
    masked = mask_text(text)
    if len(masked) > LARGEST_DIFF_BYTES:
        masked = f"{masked[:LARGEST_DIFF_BYTES]}\n# cut here: the whole patch has {len(masked)} characters\n"
    return masked


def _checkout() -> Path | None:
    """The git checkout this package is part of; a copy installed inside another one does not count."""
    package = Path(__file__).resolve().parent
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    root = _git(package, "rev-parse", "--show-toplevel")
    return Path(root.strip()) if root else None


def _git(folder: Path, *arguments: str) -> str | None:
    """The output of a git command, None when git fails, is missing or takes too long."""
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
    try:
        answer = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=20,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout if answer.returncode == 0 else None


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
