"""The verbs about trials that were submitted: `status`, `logs`, `show`, `cancel`, `retry`, `export`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from runner import completion
from runner.cli_onebox import Yes, confirm
from runner.cli_options import (
    EXIT_USER_ERROR,
    Json,
    MaybeProfile,
    Root,
    Selectors,
    Target,
    Trial,
    choose_root,
    existing_root,
    leave,
    print_json,
    wait,
)
from runner.errors import ConfigError
from runner.paths import file_to_write

if TYPE_CHECKING:
    from runner.rundir import RunDir


def status(
    sweep: Annotated[
        str | None,
        typer.Argument(metavar="SWEEP", help="Experiment; else all of them.", autocompletion=completion.sweeps),
    ] = None,
    selectors: Selectors = None,
    state: Annotated[
        list[str] | None, typer.Option(metavar="STATE", help="Only these: failed, running, ..., or blocked.")
    ] = None,
    as_json: Json = False,
    watch: Annotated[bool, typer.Option("--watch", help="Stay until all trials are final.")] = False,
    root: Root = None,
) -> None:
    """One row a trial: state, progress, what happened to it; with --watch, exits with 1 unless all are done."""
    from runner.explain import counted
    from runner.status import choose_states, read_statuses
    from runner.tables import make_console
    from runner.watch import status_table

    runs, count = _select(sweep, selectors, existing_root(root))
    if watch and not as_json:
        if state:
            raise ConfigError("--state: not together with --watch, since states change")
        leave(wait(runs))
    rows = choose_states(read_statuses(runs), state or [])
    if as_json:
        print_json([row.as_json() for row in rows])
    elif rows:
        console = make_console()
        console.print(status_table(rows, console.width))
    else:
        print(f"none of {counted(count, 'trial')}" if count else f"no trials under {choose_root(root)}")


def logs(
    target: Target,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the trial is final.")] = False,
    rank: Annotated[int | None, typer.Option(min=0, help="Else 0, or the rank that failed first.")] = None,
    attempt: Annotated[int | None, typer.Option(min=1, help="Else the last one.")] = None,
    tail: Annotated[int | None, typer.Option(min=0, metavar="N", help="Only the last N lines.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="In short, why each trial that failed did.")] = False,
    root: Root = None,
) -> None:
    """Output of a trial; with --failed, the first traceback of each failed trial of a sweep."""
    from runner.logs import find_log, follow_log, print_log
    from runner.rundir import find_target, find_trial

    if failed:
        _print_failures(find_target(existing_root(root), target))
        return
    run = find_trial(existing_root(root), target)
    if follow:
        follow_log(run, rank, attempt, tail=tail)
    else:
        print_log(find_log(run, rank, attempt), tail=tail)


def show(trial: Trial, as_json: Json = False, root: Root = None) -> None:
    """Config and attempts of a trial, why each attempt ended."""
    from runner.rundir import find_trial
    from runner.show import print_trial, show_trial
    from runner.tables import make_console

    document = show_trial(find_trial(existing_root(root), trial))
    if as_json:
        print_json(document)
    else:
        print_trial(document, make_console())


def cancel(target: Target, yes: Yes = False, root: Root = None) -> None:
    """Stop a trial, or what is not final of a sweep."""
    from runner.cancel import cancel
    from runner.explain import counted
    from runner.rundir import find_target
    from runner.status import count_states, read_statuses

    rows = read_statuses(find_target(existing_root(root), target))
    active = [row for row in rows if not row.record.is_final]
    if not active:
        print("nothing to cancel: every trial is final")
    elif confirm(f"cancel {count_states(active)}?", yes):
        print(f"cancelled {len(cancel(row.run for row in active))} of {counted(len(rows), 'trial')}")


def retry(
    target: Target,
    on: MaybeProfile = None,
    ranks: Annotated[int | None, typer.Option(min=1, help="Train on so many ranks from now on.")] = None,
    is_elastic: Annotated[
        bool, typer.Option("--elastic", help="Take up checkpoints of another number of ranks: equal but for rounding.")
    ] = False,
    code: Annotated[
        Literal["own", "current"], typer.Option(help="Go on with the code it was submitted with, or with today's.")
    ] = "own",
    root: Root = None,
) -> None:
    """Submit again what failed, was cancelled or got lost."""
    from runner.explain import counted
    from runner.retry import retry
    from runner.rundir import find_target

    runs = find_target(existing_root(root), target)
    plan = retry(runs, on, ranks=ranks, is_elastic=is_elastic, code=code)
    for line in plan.refused:
        print(f"runner: {line}", file=sys.stderr)
    if not plan.runs:
        if plan.refused:
            leave(EXIT_USER_ERROR)
        print("nothing to retry")
        return
    print(f"submitted {len(plan.runs)} of {counted(len(runs), 'trial')} again")


def export(
    trial: Trial,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            parser=file_to_write("FILE", "weights.pt"),
            help="Weights of the encoder and method, for torch.load.",
        ),
    ],
    root: Root = None,
) -> None:
    """Write the weights of a trial into one file."""
    from runner.export import export
    from runner.rundir import find_trial

    for refused in export(find_trial(existing_root(root), trial), file):
        print(f"runner: refused {refused}", file=sys.stderr)
    print(file)


def _find_all(root: Path) -> "list[RunDir]":
    from runner.rundir import find_experiments, find_trials

    return [run for folder in find_experiments(root) for run in find_trials(folder)]


def _select(sweep: str | None, selectors: list[str] | None, root: Path) -> "tuple[list[RunDir], int]":
    """The trials of an experiment, or of all, that meet the selectors, and of how many; `sweep` may be a selector."""
    from runner.conditions import SIGNS, parse_condition
    from runner.rundir import find_target
    from runner.selectors import select

    words = selectors or []
    if sweep is not None and set(sweep) & set(SIGNS):
        words, sweep = [sweep, *words], None
    conditions = [parse_condition(word) for word in words]
    runs = _find_all(root) if sweep is None else find_target(root, sweep)
    return select(runs, conditions), len(runs)


def _print_failures(runs: "list[RunDir]") -> None:
    from runner.status import count_states, read_statuses
    from runner.tracebacks import tell_failures

    rows = read_statuses(runs)
    for line in tell_failures(rows):
        print(line)
    print(count_states(rows))
