"""What the verbs of several modules take and print alike."""

import json
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from runner import completion, paths
from runner.errors import ConfigError
from runner.masking import mask_text

if TYPE_CHECKING:
    from runner.rundir import RunDir
    from runner.watch import SendRest

EXIT_FAILED, EXIT_USER_ERROR, EXIT_INTERRUPTED = 1, 2, 130

Experiment = Annotated[
    Path,
    typer.Argument(
        metavar="EXP",
        parser=paths.file_to_read("EXP", "give an experiment file, such as experiments/quickstart.yaml"),
        help="Experiment file.",
        autocompletion=completion.experiment_files,
    ),
]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Overrides of the file.")]
Target = Annotated[
    str,
    typer.Argument(
        metavar="SWEEP|TRIAL", help="Experiment, or start of a trial's id.", autocompletion=completion.targets
    ),
]
Selectors = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Only such trials; also !KEY=VALUE, KEY>1, KEY=a,b*.")
]
_ON = typer.Option(
    "--on", metavar="PROFILE", help="Where: a file, or a name in slurm/.", autocompletion=completion.profiles
)
Profile = Annotated[str, _ON]
MaybeProfile = Annotated[str | None, _ON]
Root = Annotated[
    Path | None,
    typer.Option(
        "--root", metavar="DIR", parser=paths.folder("--root"), help="Run root; else RUNNER_ROOT, else ./runs."
    ),
]
Trial = Annotated[
    str,
    typer.Argument(
        metavar="TRIAL", help="Start of a trial's id, or EXPERIMENT/START.", autocompletion=completion.trials
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, and nothing else.")]


def choose_root(root: Path | None) -> Path:
    """The run root, which may not exist yet; an empty RUNNER_ROOT is none.

    Raises: ConfigError for what is no folder.
    """
    return root or _root_of_environment() or paths.folder("--root")("runs")


def existing_root(root: Path | None) -> Path:
    """The run root of a verb that reads. Raises: ConfigError where one was named that does not exist."""
    chosen = choose_root(root)
    named = "--root" if root is not None else "RUNNER_ROOT" if _root_of_environment() is not None else None
    if named is not None and not chosen.exists():
        raise ConfigError(f"{named} {chosen}: does not exist; give the folder that the trials were submitted to")
    return chosen


def _root_of_environment() -> Path | None:
    given = os.environ.get("RUNNER_ROOT", "")
    return paths.folder("RUNNER_ROOT")(given) if given.strip() else None


def help_without_verb(context: typer.Context) -> None:
    """Where no verb follows: its help, on stderr, and the exit code of an error of the user."""
    if context.invoked_subcommand is None:
        print(context.get_help(), file=sys.stderr)
        raise typer.Exit(2)


def complain(message: str, code: int) -> int:
    """Say on stderr what is wrong, in one line; the exit code."""
    print(f"runner: {mask_text(' '.join(message.split()))}", file=sys.stderr)
    return code


def leave(code: int) -> NoReturn:
    raise typer.Exit(code)


def wait(runs: "list[RunDir]", send_rest: "SendRest | None" = None) -> int:
    """Stay until trials are final, and tell those that are not done; the exit code."""
    from runner.notify import tell_ended
    from runner.status import read_statuses
    from runner.watch import wait_until_final

    code = wait_until_final(runs, send_rest=send_rest)
    if code:
        tell_ended(read_statuses(runs))
    return code


def print_json(document: Any) -> None:
    print(json.dumps(_finite(document), indent=2, default=str, allow_nan=False))


def _finite(value: Any) -> Any:
    """JSON knows no nan and no infinity: null."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
