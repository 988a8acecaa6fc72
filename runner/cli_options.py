"""What the verbs of several modules take and print alike."""

import json
import math
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from runner import completion

Root = Annotated[Path | None, typer.Option("--root", metavar="DIR", help="Run root; else RUNNER_ROOT, else ./runs.")]
Trial = Annotated[
    str,
    typer.Argument(
        metavar="TRIAL", help="Start of a trial's id, or EXPERIMENT/START.", autocompletion=completion.trials
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, and nothing else.")]


def choose_root(root: Path | None) -> Path:
    return root or Path(os.environ.get("RUNNER_ROOT") or "runs")


def print_json(document: Any) -> None:
    print(json.dumps(_finite(document), indent=2, default=str, allow_nan=False))


def _finite(value: Any) -> Any:
    """JSON knows no nan and no infinity: null."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
