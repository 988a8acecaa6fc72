"""The verbs about the code of trials: `runner reproduce`, `runner diff`, `runner code`."""

from pathlib import Path
from typing import Annotated

import typer

from runner import completion
from runner.cli_onebox import Yes, confirm
from runner.cli_options import Json, Root, Trial, existing_root, print_json
from runner.paths import folder

EXIT_DIFFERENT = 1


def reproduce(
    trial: Trial,
    run: Annotated[bool, typer.Option("--run", help="Do it, here, and compare; 1 unless equal.")] = False,
    into: Annotated[
        Path | None,
        typer.Option(metavar="DIR", parser=folder("--into"), help="Else ROOT/.reproduce/EXPERIMENT/TRIAL."),
    ] = None,
    root: Root = None,
) -> None:
    """Print how to train a trial again from step 0 in its own code, or do so and compare every bit of the end."""
    from runner.reproduce import read_recipe, reproduce
    from runner.rundir import find_trial

    recipe = read_recipe(find_trial(existing_root(root), trial), into)
    print("\n".join(recipe.lines()), flush=True)
    if not run:
        return
    comparison = reproduce(recipe)
    print("\n".join([comparison.text, *(f"  {reason}" for reason in comparison.reasons)]))
    raise typer.Exit(0 if comparison.equal else EXIT_DIFFERENT)


def diff(
    first: Trial,
    second: Annotated[str, typer.Argument(metavar="TRIAL", help="Another.", autocompletion=completion.trials)],
    code: Annotated[bool, typer.Option("--code", help="With the changes of the code, line by line.")] = False,
    as_json: Json = False,
    root: Root = None,
) -> None:
    """What sets two trials apart: config, code, environment, metrics, attempts."""
    from runner.diff import diff_trials, print_diff
    from runner.rundir import find_trial
    from runner.tables import make_console

    place = existing_root(root)
    document = diff_trials(find_trial(place, first), find_trial(place, second))
    if as_json:
        print_json(document)
    else:
        print_diff(document, make_console(), code)


def code(
    prune: Annotated[bool, typer.Option("--prune", help="Delete what no trial names; asks.")] = False,
    yes: Yes = False,
    root: Root = None,
) -> None:
    """The snapshots of the code that trials run, and which of them no trial needs."""
    from runner.code_store import delete, list_snapshots
    from runner.explain import counted
    from runner.tables import make_console, new_table

    snapshots = list_snapshots(existing_root(root))
    spare = [each for each in snapshots if each.is_spare]
    if not prune:
        table = new_table(["code", "used", "MB", "trials"])
        for each in snapshots:
            table.add_row(*each.cells())
        make_console().print(table)
        if spare:
            print(f"{counted(len(spare), 'snapshot')} that no trial needs; to delete: runner code --prune")
    elif not spare:
        print("nothing to delete: every snapshot has a trial, or was used within a day")
    elif confirm(f"delete {counted(len(spare), 'snapshot')}: {', '.join(each.home.name for each in spare)}?", yes):
        deleted = delete(spare)
        if len(deleted) < len(spare):
            print(f"deleted {len(deleted)}: the others were taken by a submission meanwhile")
