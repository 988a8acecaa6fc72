"""Verbs for those who add something, and see what there is."""

from pathlib import Path
from typing import Annotated

import typer

from runner import completion, plugins
from runner.cli_options import Json, print_json
from runner.paths import file_to_write, folder

KINDS = ("method", "dataset", "encoder", "schedule", "profile")
LISTED = (*plugins.FAMILIES, "profiles", "experiments")


def new(
    kind: Annotated[str, typer.Argument(metavar="KIND", help=f"{', '.join(KINDS)}.", autocompletion=lambda: KINDS)],
    name: Annotated[str, typer.Argument(metavar="NAME", help="What an experiment file will call it.")],
    into: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            parser=folder("--into"),
            help="A package of your own, with pyproject.toml beside this folder; else this checkout.",
        ),
    ] = None,
) -> None:
    """Write a plug-in or a profile that works as it is, to be changed; overwrites nothing."""
    from runner.new import make

    made = make(kind, name, into, Path.cwd())
    for word, paths in (("wrote", made.written), ("added to", made.changed)):
        for path in paths:
            print(f"{word} {_shown(path)}")
    if made.package is not None:
        print(f"package {_shown(made.package)}: pyproject.toml lies beside this folder")
    print(f"next: {' && '.join(made.following)}")


def _shown(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def list_(
    kind: Annotated[
        str | None, typer.Argument(metavar="KIND", help=f"{', '.join(LISTED)}.", autocompletion=lambda: LISTED)
    ] = None,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Its options.", autocompletion=completion.plug_ins)
    ] = None,
    as_json: Json = False,
) -> None:
    """What there is to choose from, a line each; the options of one plug-in."""
    from runner import listing
    from runner.tables import make_console

    if kind is not None and name is not None:
        options = listing.options(kind, name)
        if as_json:
            print_json([vars(one) for one in options])
        else:
            make_console().print(listing.options_table(options))
        return
    found = {each: listing.entries(each) for each in ([kind] if kind is not None else LISTED)}
    if as_json:
        print_json({each: [vars(entry) for entry in entries] for each, entries in found.items()})
        return
    for each, entries in found.items():
        if kind is None:
            print(f"{each}:")
        width = max((len(entry.name) for entry in entries), default=0)
        for entry in entries:
            print(f"{entry.name:{width}}  {entry}")
        if kind is None:
            print()


def init(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Take what Slurm tells; ask nothing.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            parser=file_to_write("--out", "slurm/site.yaml", makes_folder=True),
            help="Else slurm/NAME.yaml, by the name of the cluster.",
        ),
    ] = None,
) -> None:
    """Write a profile of this cluster from four questions, or of this machine where there is no Slurm."""
    from runner.init import init

    def ask(question: str, default: str, why: str) -> str:
        return default if yes else str(typer.prompt(f"{question}; {why}", default=default, err=True))

    path, text = init(out, ask)
    print(f"{text}\nwrote {path}\nnext: runner doctor --on {path}")


def schema() -> None:
    """Print the JSON schema of experiment files, for editors."""
    from runner.json_schema import json_schema

    print_json(json_schema())
