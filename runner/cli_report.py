"""The verbs that make pages and pictures of what came out: `report` of sweeps, `embed` of a trial."""

import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from runner.cli_options import Root, Trial, existing_root
from runner.cli_results import Sweeps
from runner.errors import ConfigError
from runner.paths import file_to_write, folder


def report(
    sweeps: Sweeps,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html",
            parser=file_to_write("--out", "report.html"),
            help="Else ROOT/EXPERIMENT/report.html.",
        ),
    ] = None,
    pictures: Annotated[
        bool, typer.Option("--pictures", help="With what the best trial has learned, as `runner embed` draws it.")
    ] = False,
    root: Root = None,
) -> None:
    """One page of a sweep that needs nothing else: results, curves, settings, failures, where the time went."""
    from runner.report import write_report
    from runner.rundir import find_sweep

    top = existing_root(root)
    folders = list(dict.fromkeys(find_sweep(top, sweep) for sweep in sweeps))
    if out is None and len(folders) > 1:
        raise ConfigError("--out: a page of several sweeps belongs to none of their folders; say where it goes")
    path = out or folders[0] / "report.html"
    write_report(path, folders, time.time(), pictures)
    print(path)


def embed(
    trial: Trial,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", parser=folder("--out"), help="Else `pictures` in the run folder."),
    ] = None,
    method: Annotated[
        Literal["tsne", "pca", "umap"], typer.Option(help="How features get two dimensions; umap needs umap-learn.")
    ] = "tsne",
    samples: Annotated[
        int, typer.Option(min=4, max=10_000, help="Of each data set at most, evenly from the whole.")
    ] = 2000,
    queries: Annotated[int, typer.Option(min=1, help="Samples whose neighbours are shown.")] = 10,
    neighbours: Annotated[int, typer.Option(min=1, help="Of each of them.")] = 8,
    root: Root = None,
) -> None:
    """Pictures of what a trial has learned: a map of its evaluation set, and nearest neighbours."""
    from runner.embed.pictures import write_pictures
    from runner.rundir import find_trial

    run = find_trial(existing_root(root), trial)
    for path in write_pictures(run, out or run.path / "pictures", method, samples, queries, neighbours):
        print(path)
