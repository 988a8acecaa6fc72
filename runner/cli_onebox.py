"""The verbs of `runner onebox`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from runner.cli_options import help_without_verb
from runner.errors import ConfigError
from runner.paths import folder

app = typer.Typer(
    help="A real single-machine Slurm, for tests and rehearsals.", invoke_without_command=True, rich_markup_mode=None
)

Folder = Annotated[
    Path | None,
    typer.Option(metavar="DIR", parser=folder("--folder"), help="Else RUNNER_ONEBOX, else ~/.cache/runner/onebox."),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@app.callback()
def options(context: typer.Context) -> None:
    help_without_verb(context)


@app.command("install")
def onebox_install() -> None:
    """Install Slurm, munge and MariaDB; starts nothing."""
    from runner.onebox import install

    install()


@app.command("up")
def onebox_up(
    folder: Folder = None,
    nodes: Annotated[int, typer.Option(help="Virtual nodes.")] = 4,
    cpus: Annotated[int, typer.Option(help="Virtual CPUs of a node.")] = 8,
    gpus: Annotated[int, typer.Option(help="Fake GPUs of a node.")] = 4,
    accounting: Annotated[bool, typer.Option(help="Keep accounts, for sacct.")] = True,
) -> None:
    """Start the cluster, or what is missing of it."""
    from runner.onebox import up

    cluster = up(folder, nodes=nodes, cpus=cpus, gpus=gpus, accounting=accounting)
    print(f"{len(cluster.nodes)} nodes are up; to use them: source {cluster.folder / 'env'}")


@app.command("down")
def onebox_down(
    folder: Folder = None,
    wipe: Annotated[bool, typer.Option("--wipe", help="Delete its folder too.")] = False,
    yes: Yes = False,
) -> None:
    """End the cluster and its jobs."""
    from runner.onebox import down, status

    jobs = status(folder).jobs
    if not (jobs or wipe) or confirm(f"end {jobs} jobs{' and delete the folder' if wipe else ''}?", yes):
        down(folder, wipe)


@app.command("status")
def onebox_status(folder: Folder = None) -> None:
    """What runs of the cluster; exit code 1 when something is missing."""
    from runner.onebox import status

    cluster = status(folder)
    print(f"{cluster.folder}: {cluster.jobs} unfinished jobs")
    for name, state in {**cluster.daemons, **cluster.nodes}.items():
        print(f"  {name:20} {'not running' if state is None else state}")
    raise typer.Exit(0 if cluster.running else 1)


def confirm(question: str, yes: bool) -> bool:
    """Ask before something is destroyed. Raises: ConfigError when there is nobody to answer."""
    if yes:
        return True
    if not sys.stdin.isatty():
        raise ConfigError(f"{question} stdin is no terminal to answer on; add --yes")
    return typer.confirm(question)
