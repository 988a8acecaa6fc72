"""The verbs that say how much of the time is useful: `goodput` of what ran, `simulate` of what might."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runner.cli_options import Json, Root, Target, existing_root, print_json
from runner.paths import file_to_write

if TYPE_CHECKING:
    from runner.goodput import Account


def goodput(
    target: Target,
    as_json: Json = False,
    per_rank: Annotated[bool, typer.Option("--rank-seconds", help="Count a second once for each rank.")] = False,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", parser=file_to_write("--plot", "time.png"), help="Draw the timeline: .png, .pdf, .svg."
        ),
    ] = None,
    root: Root = None,
) -> None:
    """Where the time went: useful, redone, saving, restoring, start-up, evaluation, queue, idle; and what to do."""
    from runner.advice import advise, read_site
    from runner.goodput import costs_table, goodput_table, ledger_as_json
    from runner.ledger import add_up, keep_account
    from runner.tables import make_console
    from runner.timeline import draw_timeline

    accounts = _accounts(target, root, per_rank)
    total = add_up(account.ledger for account in accounts)
    # Whatever a second counts for, what is best to do does not depend on it.
    plain = add_up(keep_account(account.history) for account in accounts) if per_rank else total
    advice = advise(plain, read_site(accounts), len(accounts))
    if plot is not None:
        draw_timeline(plot, accounts[0].row.experiment, accounts)
    if as_json:
        trials = [account.as_json() for account in accounts]
        print_json({"trials": trials, "total": ledger_as_json(total), "advice": advice})
        return
    console = make_console()
    console.print(goodput_table(accounts, total, console.width))
    if total.interruptions:
        console.print()
        console.print(costs_table(total.interruptions, console.width))
    for line in advice:
        print(f"\n{line}")


def simulate(
    trials: Annotated[int | None, typer.Option(min=1, help="Trials; else 1.")] = None,
    steps_hours: Annotated[float | None, typer.Option(min=0.001, help="Useful training of a trial; else 24.")] = None,
    nodes: Annotated[int | None, typer.Option(min=1, help="Of each trial; else 1.")] = None,
    pool: Annotated[int | None, typer.Option(min=1, help="Nodes in all; else enough for all trials at once.")] = None,
    failures_per_1000_node_days: Annotated[float | None, typer.Option(min=0, help="Else 6.5.")] = None,
    preempt_every_hours: Annotated[
        float | None, typer.Option(min=0.001, help="Mean time between two preemptions of a trial; else none.")
    ] = None,
    save_seconds: Annotated[float | None, typer.Option(min=0, help="Training stands still for a save; else 5.")] = None,
    restart_seconds: Annotated[
        float | None, typer.Option(min=0, help="From the launch to the first step; else 300.")
    ] = None,
    queue_seconds: Annotated[float | None, typer.Option(min=0, help="From a requeue to the launch; else 0.")] = None,
    interval: Annotated[
        str | None, typer.Option(metavar="auto|young|MIN", help="Minutes between two checkpoints; else auto.")
    ] = None,
    grace: Annotated[
        float | None, typer.Option(min=0, help="Seconds from the warning of a preemption to the end; else 120.")
    ] = None,
    measured_in: Annotated[
        str | None, typer.Option("--from", metavar="SWEEP", help="Take what is not given from a sweep's ledger.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Of the whole.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Of what happens when.")] = 0,
    as_json: Json = False,
    root: Root = None,
) -> None:
    """How much of the time would be useful, and what it would cost: trials, failures and preemptions on paper."""
    from runner.forecast import forecast_as_json, forecast_tables, make_scenario
    from runner.simulate import simulate
    from runner.tables import make_console

    scenario = make_scenario(
        None if measured_in is None else _accounts(measured_in, root),
        trials=trials,
        training_hours=steps_hours,
        nodes=nodes,
        pool=pool,
        failures_per_1000_node_days=failures_per_1000_node_days,
        preempt_every_hours=preempt_every_hours,
        save_seconds=save_seconds,
        restart_seconds=restart_seconds,
        queue_seconds=queue_seconds,
        interval=interval,
        grace_seconds=grace,
    )
    outcome = simulate(scenario, repeats, seed)
    if as_json:
        print_json(forecast_as_json(scenario, outcome))
        return
    console = make_console()
    for table in forecast_tables(scenario, outcome):
        console.print(table)
        console.print()


def _accounts(target: str, root: Path | None, per_rank: bool = False) -> "list[Account]":
    from runner.goodput import read_accounts
    from runner.rundir import find_target
    from runner.status import read_statuses

    return read_accounts(read_statuses(find_target(existing_root(root), target)), time.time(), per_rank)
