"""What a trial was made from: code, packages, machine and command line, with every secret masked."""

import getpass
import importlib.metadata
import os
import platform
import re
import shlex
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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

LARGEST_DIFF_BYTES = 2_000_000
MASK = "***"

_SECRET_WORDS = {"secret", "password", "passwd", "passphrase", "credential", "credentials", "apikey", "jwt"}
_SECRET_ENDINGS = {"key", "token", "auth", "pat", "pass", "pwd"}
_WELL_KNOWN = re.compile(
    r"\b(?:sk-[\w-]{16,}|gh[a-z]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|hf_\w{20,}|AKIA[0-9A-Z]{16}"
    r"|xox[a-z]-[\w-]{10,}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*)"
)
_URL_USER = re.compile(r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]*://)[^/\s@]+@")
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}")
_ASSIGNMENT = re.compile(r"(?P<name>[+~-]*[\w.-]+)(?P<sign>\s*[=:]\s*)(?P<value>\S.*)", re.DOTALL)
_LITERAL = re.compile(r"""(?P<name>[\w.-]+)(?P<sign>["']?\s*[=:]\s*)(?P<value>"[^"\s]{8,}"|'[^'\s]{8,}')""")


def collect(command: list[str]) -> tuple[dict[str, Any], str]:
    """The content of provenance.json, and the uncommitted changes of the code as a patch (empty without any).

    `command` is the command line as typed. Of the environment only SLURM_* and CUDA_VISIBLE_DEVICES are kept.
    """
    root = _checkout()
    patch = _diff(root) if root else ""
    document = {
        "time": time.time(),
        "command": mask_command(command),
        "git": _git_facts(root) | {"diff": DIFF_FILE if patch else None} if root else None,
        "python": platform.python_version(),
        "packages": _package_versions(),
        "host": platform.node(),
        "platform": platform.platform(),
        "user": _user(),
        "folder": mask_text(os.getcwd()),
        "environment": _kept_environment(os.environ),
    }
    return document, patch


def mask_command(command: list[str]) -> str:
    """The command line, quoted for a shell, without the secrets in it."""
    words, hide_next = [], False
    for word in command:
        names_secret = word.startswith("-") and "=" not in word and is_secret_name(word)
        assignment = _ASSIGNMENT.fullmatch(word)
        if hide_next and not word.startswith("-"):
            words.append(MASK)
        elif assignment:
            words.append(mask_text(_mask_assignment(assignment)))
        else:
            words.append(mask_text(word))
        hide_next = names_secret
    return " ".join(word if MASK in word and " " not in word else shlex.quote(word) for word in words)


def mask_text(text: str) -> str:
    """The text without the secrets in URLs, of known shape, after a secret name, or of the environment."""
    for value in _secret_values(os.environ):
        text = text.replace(value, MASK)
    text = _URL_USER.sub(rf"\g<scheme>{MASK}@", text)
    text = _BEARER.sub(rf"\1 {MASK}", text)
    text = _LITERAL.sub(_mask_assignment, text)
    return _WELL_KNOWN.sub(MASK, text)


def is_secret_name(name: str) -> bool:
    """Whether a variable, option or config key of this name holds a secret: WANDB_API_KEY yes, key_dim no."""
    parts = [part for part in re.split(r"[^a-z0-9]+", name.lower()) if part]
    return bool(parts) and (
        bool(_SECRET_WORDS & set(parts))
        or parts[-1] in _SECRET_ENDINGS
        or parts[-1].endswith(("apikey", "token", "secret", "password"))
    )


def _mask_assignment(match: re.Match[str]) -> str:
    if is_secret_name(match["name"]):
        return f"{match['name']}{match['sign']}{MASK}"
    within = _ASSIGNMENT.fullmatch(match["value"])
    return f"{match['name']}{match['sign']}{_mask_assignment(within)}" if within else match[0]


def _secret_values(environment: Mapping[str, str]) -> list[str]:
    values = {value for name, value in environment.items() if is_secret_name(name) and len(value) >= 8}
    # A secret may be named as a file; the name of a file or folder is none.
    return sorted((value for value in values if not value.startswith("/")), key=len, reverse=True)


def _kept_environment(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name: mask_text(value)
        for name, value in sorted(environment.items())
        if (name.startswith("SLURM_") or name == "CUDA_VISIBLE_DEVICES") and not is_secret_name(name)
    }


def _package_versions() -> dict[str, str]:
    versions = {}
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
