"""The verbs of `runner data`."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from runner.cli_options import help_without_verb
from runner.errors import ConfigError
from runner.paths import file_to_read, file_to_write

app = typer.Typer(help="Make data sets.", invoke_without_command=True, rich_markup_mode=None)


@app.callback()
def options(context: typer.Context) -> None:
    help_without_verb(context)


@app.command("build-triples", short_help="Functions with comments, disassembly and IR, from C.")
def build_triples(
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE", parser=file_to_write("--out", "triples.jsonl"), help="Output, .jsonl or .jsonl.gz."
        ),
    ],
    sources: Annotated[
        list[Path] | None,
        typer.Argument(metavar="SOURCES", parser=file_to_read("SOURCES", "give C files"), help="C files."),
    ] = None,
    flags: Annotated[str, typer.Option(help='Flags for all SOURCES, such as "-I. -DX".')] = "",
    log: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            parser=file_to_read("--log", "give a file of compile commands"),
            help='Compile commands instead, JSON lines of {"cwd", "argv"}.',
        ),
    ] = None,
    names: Annotated[Literal["kept", "stripped"], typer.Option(help="Names that relocations hold.")] = "kept",
    jobs: Annotated[int | None, typer.Option(min=1, help="Files at once; else one a core.")] = None,
    package: Annotated[str, typer.Option(help="Name of the package; else that of the folder of all sources.")] = "",
    version: Annotated[str, typer.Option(help="Version of the package.")] = "",
    license_: Annotated[str, typer.Option("--license", help="SPDX name of its licence.")] = "",
    gcc: Annotated[str, typer.Option(help="Compiler for the disassembly.")] = "gcc",
    clang: Annotated[str | None, typer.Option(help="Compiler for the IR; else the newest there is.")] = None,
) -> None:
    """Functions with their comments, disassembly and IR, from C sources.

    Stopped, it goes on where it was when it is called again. What does not compile is listed and left out. A function
    is taken if its comment has 4 words, its source 60 characters and its disassembly 5 instructions at least.

    Train and test are different packages: data.paths=[mine.jsonl, other.jsonl] data.test_packages=[other].
    """
    from runner.code.build import Origin, build_triples
    from runner.code.compiler import find_tools, read_log, units_of

    if (log is None) == (not sources):
        raise ConfigError("build-triples: give either SOURCES or --log")
    if log is not None and flags:
        raise ConfigError(f"build-triples: --flags {flags!r} is for SOURCES; the commands of --log have their own")
    if out.suffixes[-2:] != [".jsonl", ".gz"] and out.suffix != ".jsonl":
        raise ConfigError(f"build-triples: --out {out} should end in .jsonl or .jsonl.gz")
    units = read_log(log) if log is not None else units_of(sources or [], flags, Path.cwd())
    report = build_triples(
        units,
        out,
        find_tools(gcc, clang),
        Origin(package, version, license_),
        names=names,
        jobs=jobs,
        told=lambda line: print(line, file=sys.stderr, flush=True),
    )
    print(f"{out}: {report.line()}")
