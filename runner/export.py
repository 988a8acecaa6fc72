"""Weights as one file that leaves the run folder: `runner export` writes it, `init_from:` reads it."""

import zipfile
from pathlib import Path
from typing import Any

import torch

from runner.checkpoint import load, world_size
from runner.config import Trial
from runner.errors import ConfigError
from runner.explain import OptionError
from runner.files import read_rows, replacing
from runner.group import Group
from runner.lineage import newest_valid
from runner.rundir import RunDir
from runner.schema import load_yaml
from runner.state import misfits
from runner.weights import UnreadableError, read_tensors


def export(run: RunDir, file: Path) -> list[str]:
    """Write one portable file `{"state_dict", "config", "history"}` from the newest checkpoint that verifies.

    `tokenizer` is in it, too, where the data have a choice: what its token ids mean, as the data set's `describe`.

    Returns the newer ones that do not, each with its reason.
    Raises: ConfigError when the trial has no checkpoint or no whole config, or the file cannot be written.
    """
    config = read_config(run)
    name, refused = newest_valid(run)
    if name is None:
        raise ConfigError(f"{run.experiment}/{run.trial}: has no checkpoint to export yet")
    shared = load(run, Group(world=world_size(run, name)), name, refused).shared
    portable = {
        "state_dict": shared["method"],
        "config": config,
        "history": read_rows(run.metrics),
    }
    if run.tokenizer.exists():
        portable["tokenizer"] = run.tokenizer.read_text()
    if not file.parent.is_dir():
        raise ConfigError(f"{file}: its folder does not exist")
    try:
        with replacing(file) as stream:
            torch.save(portable, stream)
    except (OSError, RuntimeError) as error:  # torch wraps a full disk in a RuntimeError
        raise ConfigError(f"{file}: cannot be written: {getattr(error, 'strerror', None) or error}") from error
    return refused


def read_config(run: RunDir) -> dict[str, Any]:
    """The config of a trial, as it is written. Raises: ConfigError for a damaged one, such as one that was cut."""
    config = load_yaml(run.config).mapping
    # It may be of another version, or of plug-ins that are gone: only what every version has written must be there.
    whole = [key for key, field in Trial.model_fields.items() if field.default is not None]
    if missing := [key for key in whole if config.get(key) is None]:
        raise ConfigError(f"{run.config}: is no whole config: it has no {', '.join(missing)}; put it back from a copy")
    return config


def read_export(file: Path) -> dict[str, Any]:
    """The weights in an exported file (`init_from:`). Raises: ConfigError when it is none."""
    if not file.exists():
        raise OptionError("init_from", f"{file} does not exist; `runner export TRIAL FILE` writes one")
    if not file.is_file():
        raise OptionError("init_from", f"{file} is no file; `runner export TRIAL FILE` writes one")
    refused = f"{file} is no exported trial"
    if not zipfile.is_zipfile(file):
        raise OptionError("init_from", f"{refused}: it is not in torch's format; `runner export TRIAL FILE` writes one")
    try:
        content = read_tensors(file)
    except UnreadableError as error:
        raise OptionError("init_from", f"{refused}: it {error.reason}") from None
    if not isinstance(weights := content.get("state_dict"), dict):
        raise OptionError("init_from", f"{refused}: it has no mapping state_dict")
    return weights


def read_tokenizer(file: Path) -> str | None:
    """What the token ids of an exported file mean; None where it does not say. Call `read_export` first."""
    # Mapped, so that the weights stay where they are.
    tokenizer = torch.load(file, map_location="cpu", weights_only=True, mmap=True).get("tokenizer")
    return tokenizer if isinstance(tokenizer, str) else None


def load_weights(module: torch.nn.Module, file: Path) -> None:
    """Start a module from an exported file.

    Raises: ConfigError naming the first tensors that are missing, unexpected or of another shape.
    """
    given = read_export(file)
    if problems := misfits(module, given):
        raise ConfigError(f"init_from: {file} does not fit: {problems}")
    module.load_state_dict(given)
