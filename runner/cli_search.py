"""The verb `runner search`."""

from typing import Annotated

import typer

from runner.cli_options import Json, Root, existing_root, print_json

Sweep = Annotated[str, typer.Argument(metavar="SWEEP", help="An experiment with a `sweep: search:`.")]


def search(sweep: Sweep, as_json: Json = False, root: Root = None) -> None:
    """What a search has come to: the best so far, what matters, and every trial in its order."""
    from runner.rundir import find_sweep, find_trials
    from runner.search_report import print_reports, read_reports
    from runner.tables import make_console

    reports = read_reports(find_trials(find_sweep(existing_root(root), sweep)))
    if as_json:
        print_json([report.as_json() for report in reports])
    else:
        print_reports(reports, make_console())
