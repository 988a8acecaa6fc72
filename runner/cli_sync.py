"""The verb `runner sync`."""

from pathlib import Path
from typing import Annotated

import typer

from runner.cli_options import Root, Target, existing_root
from runner.paths import folder


def sync(
    target: Target,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be sent; send nothing.")] = False,
    project: Annotated[str | None, typer.Option(help="Else that of the trial, or the experiment's name.")] = None,
    entity: Annotated[str | None, typer.Option(help="Else that of the trial, or of the login.")] = None,
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", parser=folder("--to"), help="Write offline runs there, for `wandb sync` elsewhere."
        ),
    ] = None,
    root: Root = None,
) -> None:
    """Send W&B what it does not have of trials: one run a trial, every step once, after any number of requeues.

    Also of trials that never had W&B on: what is sent is metrics.jsonl. A second sync sends what is new.
    """
    from runner.rundir import find_target
    from runner.sync import Destination, sync

    runs = find_target(existing_root(root), target)
    sync(runs, Destination(to, project, entity), dry_run)
