"""The verbs `runner results` and `runner plot`."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from runner import completion
from runner.cli_options import Json, Root, existing_root, print_json
from runner.errors import ConfigError
from runner.paths import file_to_write

if TYPE_CHECKING:
    from runner.results.trials import Selection
    from runner.results.view import View
    from runner.rundir import RunDir

STDOUT = "-"

_TEXT_FILES = {"--markdown": (".md", ".markdown", ".txt"), "--latex": (".tex", ".txt")}
"""Options that may stand without a file, and how the names of their files end."""

Sweeps = Annotated[list[str], typer.Argument(metavar="SWEEP...", help="Experiments.", autocompletion=completion.sweeps)]
Over = Annotated[
    str | None, typer.Option(metavar="KEY", help="Group the trials that are equal but for KEY, such as seed.")
]
Where = Annotated[
    list[str] | None,
    typer.Option(metavar="CONDITION", help="KEY=VALUE, or with !=, >, >=, <, <=; `state` is a key too."),
]
Metrics = Annotated[
    list[str] | None,
    typer.Option(
        "--metric", metavar="NAME", help="Columns of the table; NAME may have a *; `all`. Files and JSON have all."
    ),
]
Spread = Annotated[
    Literal["std", "ci", "sem"],
    typer.Option(help="After ±: standard deviation, half of the 95 % interval, or standard error of the mean."),
]


class ResultsCommand(TyperCommand):
    """`--markdown` and `--latex` write to stdout where no file of theirs follows."""

    def parse_args(self, context: Any, arguments: list[str]) -> list[str]:
        words: list[str] = []
        for word, following in zip(arguments, [*arguments, ""][1:], strict=True):
            words.append(word)
            if word in _TEXT_FILES and following != STDOUT and not following.endswith(_TEXT_FILES[word]):
                words.append(STDOUT)
        return super().parse_args(context, words)


def results(
    sweeps: Sweeps,
    over: Over = None,
    where: Where = None,
    best: Annotated[
        str | None, typer.Option(metavar="METRIC[:min|max]", help="Only the best trial, or group with --over.")
    ] = None,
    metrics: Metrics = None,
    rows: Annotated[str | None, typer.Option(metavar="KEY", help="Pivot: a line for each value of KEY.")] = None,
    cols: Annotated[str | None, typer.Option(metavar="KEY", help="Pivot: a column for each value of KEY.")] = None,
    compare: Annotated[
        str | None, typer.Option(metavar="KEY=A,B", help="B against A over trials equal but for KEY, in pairs.")
    ] = None,
    spread: Spread = "std",
    as_json: Json = False,
    csv: Annotated[
        Path | None,
        typer.Option(metavar="FILE", parser=file_to_write("--csv", "all.csv"), help="Write every setting and metric."),
    ] = None,
    parquet: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", parser=file_to_write("--parquet", "all.parquet"), help="The same, in typed columns."
        ),
    ] = None,
    markdown: Annotated[
        Path | None,
        typer.Option(
            metavar="[FILE.md]", parser=file_to_write("--markdown", "table.md"), help="The table as Markdown."
        ),
    ] = None,
    latex: Annotated[
        Path | None,
        typer.Option(
            metavar="[FILE.tex]", parser=file_to_write("--latex", "table.tex"), help="The table for booktabs."
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", parser=file_to_write("--plot", "all.png"), help="Draw the main metric: .png, .pdf, .svg."
        ),
    ] = None,
    root: Root = None,
) -> None:
    """Metrics of all trials: grouped, filtered, compared, as a table or for other programs."""
    from runner.results.view import Query, make_view

    query = Query(over=over, best=best, metrics=metrics or [], rows=rows, cols=cols, compare=compare, spread=spread)
    query.check()
    if as_json and Path(STDOUT) in (markdown, latex):
        raise ConfigError("--json and a table both go to stdout; give the table a file, such as --latex table.tex")
    view = make_view(_select(sweeps, where, query.named(), root), query, where or [])
    if csv is not None or parquet is not None:
        from runner.results import records

        rows_of = view.records()
        if csv is not None:
            records.write_csv(csv, rows_of)
        if parquet is not None:
            records.write_parquet(parquet, rows_of)
    if plot is not None:
        from runner.plot import plot_results

        plot_results(plot, " and ".join(sweeps), view.results, view.groups, spread=spread)
    if markdown is not None or latex is not None:
        _write_text(view, markdown, latex)
    if as_json:
        print_json(view.document())
    elif markdown is None and latex is None:
        print_view(view)


def plot(
    sweeps: Sweeps,
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE", parser=file_to_write("--out", "curves.png"), help="The picture: .png, .pdf or .svg."
        ),
    ],
    kind: Annotated[
        str | None,
        typer.Option(metavar="KIND", help="curves, parameter, search, settings, timeline; else what fits."),
    ] = None,
    x: Annotated[str | None, typer.Option("--x", metavar="KEY", help="Horizontal axis of `parameter`.")] = None,
    metric: Annotated[str | None, typer.Option(metavar="NAME", help="Else the main one.")] = None,
    over: Over = None,
    where: Where = None,
    spread: Spread = "std",
    root: Root = None,
) -> None:
    """A picture of sweeps: curves with bands over seeds, a parameter against a metric, or where the time went."""
    from runner.plot import plot_results
    from runner.results import group_over

    named = {name: option for option, name in (("--over", over), ("--x", x)) if name is not None}
    selection = _select(sweeps, where, named, root)
    if kind == "timeline":
        _draw_timeline(out, " and ".join(sweeps), selection)
        return
    groups = group_over(selection.results, selection.keys[over]) if over else None
    plot_results(
        out,
        " and ".join(sweeps),
        selection.results,
        groups,
        kind=kind,
        x=selection.keys[x] if x else None,
        metric=metric,
        spread=spread,
    )
    print(out)


def _draw_timeline(out: Path, title: str, selection: "Selection") -> None:
    from runner.goodput import read_accounts
    from runner.status import read_statuses
    from runner.timeline import draw_timeline

    runs = [result.run for result in selection.results if result.run is not None]
    draw_timeline(out, title, read_accounts(read_statuses(runs), time.time()))
    print(out)


def print_results(runs: "list[RunDir]") -> None:
    """The table of one sweep."""
    from runner.results.trials import Selection, read_results
    from runner.results.view import Query, make_view
    from runner.status import read_statuses

    results = read_results(read_statuses(runs))
    print_view(make_view(Selection(results, len(results), {}), Query(), []))


def print_view(view: "View") -> None:
    from runner.results.terminal import print_sheet
    from runner.tables import make_console

    console = make_console()
    print_sheet(view.sheet(console.width), console)


def _select(sweeps: list[str], where: list[str] | None, named: dict[str, str], root: Path | None) -> "Selection":
    from runner.conditions import parse_condition
    from runner.results.trials import select
    from runner.rundir import find_sweep

    top = existing_root(root)
    conditions = [parse_condition(text, "--where") for text in where or []]
    folders = list(dict.fromkeys(find_sweep(top, sweep) for sweep in sweeps))
    return select(folders, conditions, named)


def _write_text(view: "View", markdown: Path | None, latex: Path | None) -> None:
    from runner.results import markup
    from runner.results.records import write_file
    from runner.tables import PIPED_WIDTH

    sheet = view.sheet(PIPED_WIDTH)
    for file, render in ((markdown, markup.markdown), (latex, markup.latex)):
        if file == Path(STDOUT):
            sys.stdout.write(render(sheet))
        elif file is not None:
            write_file(file, render(sheet).encode())
