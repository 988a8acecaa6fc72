"""Building a file of triples from C sources: compile, take apart, put together; goes on where it was stopped.

Each source leaves a part in a folder beside the output as soon as it is done. The output is written, whole or
not at all, when all parts are there, in the order of the sources; so it does not depend on the number of jobs
or on interruptions. A file that does not compile leaves no part: it is reported and counted, and the parts of the
others stay, so that the next build has only this one to try again.
"""

import gzip
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from runner.code.assembly import MIN_INSTRUCTIONS
from runner.code.comments import MIN_WORDS, clean_comment, find_comment
from runner.code.compiler import LEVELS, CompileError, Tools, Unit, check_unit, compile_unit
from runner.code.functions import find_functions
from runner.code.lexer import lex, without_comments
from runner.code.strip import strip_asm, strip_ir
from runner.errors import DataError
from runner.files import read_json, replacing, write_json

MIN_CHARACTERS = 60
"""Of a function without comments."""

FORMAT = 2
"""Raise it when the same sources and compilers give other rows: parts of before are not used then."""

Names = Literal["kept", "stripped"]


@dataclass(frozen=True)
class Origin:
    """Where sources come from; goes into every row."""

    package: str = ""
    """Empty: the name of the folder that all sources are in."""

    version: str = ""
    license: str = ""


@dataclass
class Report:
    """What a build came to."""

    files: int = 0
    resumed: int = 0
    """Files whose part an earlier build had left."""

    barren: int = 0
    """Files without a function that has a comment and a binary."""

    failures: dict[str, str] = field(default_factory=dict)
    """File -> why it did not compile."""

    functions: int = 0
    binaries: int = 0
    """Pairs of a function and a level."""

    with_ir: int = 0
    duplicates: int = 0
    clang: bool = False

    def line(self) -> str:
        """The report in one line."""
        ir = f"{self.with_ir} with IR" if self.clang else "no IR: there is no clang here"
        return (
            f"{self.files} files ({self.resumed} done before): {len(self.failures)} failed, {self.barren} without "
            f"functions to take; {self.functions} functions, {self.binaries} binaries, {ir}; "
            f"{self.duplicates} duplicates left out"
        )


def build_triples(
    units: Sequence[Unit],
    out: Path,
    tools: Tools,
    origin: Origin,
    *,
    names: Names = "kept",
    jobs: int | None = None,
    told: Callable[[str], None] = lambda line: None,
) -> Report:
    """Write the triples of all units to `out`, a .jsonl or .jsonl.gz file.

    `jobs` units are compiled at once, by default one for each core that this process may use. `told` gets a
    line for each failure as it comes. Headers are not watched: delete the folder of parts after changing them.

    Raises DataError, with no output written, if there are no units, none of them compiles, or they have no
    function to take.
    """
    if not units:
        raise DataError("build-triples: no C files")
    parts = out.with_name(f".{out.name}.parts")
    parts.mkdir(parents=True, exist_ok=True)
    units = list(dict.fromkeys(units))
    root = Path(os.path.commonpath([unit.path.parent for unit in units]))
    origin = replace(origin, package=origin.package or root.name)
    report = Report(files=len(units), clang=tools.clang is not None)
    paths = {unit: parts / f"{_part_name(unit, tools, names)}.json" for unit in units}
    missing = [unit for unit in units if not paths[unit].exists()]
    report.resumed = len(units) - len(missing)
    for unit, error in _build_parts(missing, paths, tools, names, jobs or len(os.sched_getaffinity(0))):
        report.failures[str(unit.path)] = str(error)
        told(f"{unit.path}: {error}")
    if len(report.failures) == len(units):
        path, reason = next(iter(report.failures.items()))
        raise DataError(f"build-triples: none of {len(units)} files compiles; the first is {path}: {reason}")
    built = [_read_part(paths[unit], unit, root, origin) for unit in units if paths[unit].exists()]
    report.barren = built.count([])
    if report.barren == len(built):
        if not report.failures:
            shutil.rmtree(parts)
        failed = f", and {len(report.failures)} failed" if report.failures else ""
        raise DataError(
            f"build-triples: {out} is not written: no function to take in {len(built)} of {len(units)} files{failed}; "
            f"one needs a comment of {MIN_WORDS} words, {MIN_CHARACTERS} characters and {MIN_INSTRUCTIONS} instructions"
        )
    _write(out, _without_duplicates([row for rows in built for row in rows], report))
    if not report.failures:
        shutil.rmtree(parts)
    return report


def _part_name(unit: Unit, tools: Tools, names: Names) -> str:
    """Changes with whatever changes the part, except headers."""
    told = [FORMAT, str(unit.path), str(unit.folder), unit.flags, tools.versions, names]
    return hashlib.sha256(json.dumps(told).encode() + unit.path.read_bytes()).hexdigest()[:32]


def _build_parts(
    units: Sequence[Unit], paths: dict[Unit, Path], tools: Tools, names: Names, jobs: int
) -> Iterator[tuple[Unit, CompileError]]:
    """Build and write each part; gives the units that failed. Threads do, as the compilers are processes."""

    def build(unit: Unit) -> None:
        write_json(paths[unit], {"rows": list(build_rows(unit, tools, names))})

    pool = ThreadPoolExecutor(jobs)
    try:
        futures: dict[Future[None], Unit] = {pool.submit(build, unit): unit for unit in units}
        for future in as_completed(futures):
            try:
                future.result()
            except CompileError as error:
                yield futures[future], error
    finally:
        # Interrupted, the build ends with the files that are being compiled.
        pool.shutdown(cancel_futures=True)


def build_rows(unit: Unit, tools: Tools, names: Names) -> Iterator[dict[str, Any]]:
    """The functions of a file that have a comment and a binary, in order: name, comment, source, asm, ir.

    A name defined more than once, as in branches of #if, is left out: which one was compiled is not known.
    A file without such a function is only checked. Raises CompileError.
    """
    text = unit.path.read_text(errors="replace")
    source = lex(text)
    functions = list(find_functions(source))
    names_there = [function.name for function in functions]
    described = []
    for function in functions:
        comment = clean_comment(find_comment(source, function.start), function.name)
        code = without_comments(source, function.start, function.end)
        if comment and len(code) >= MIN_CHARACTERS and names_there.count(function.name) == 1:
            described.append((function, comment, code))
    if not described:
        check_unit(unit, tools)
        return
    asm, ir = compile_unit(unit, tools)
    for function, comment, code in described:
        texts = {level: asm[level][function.name] for level in LEVELS if function.name in asm[level]}
        if texts:
            yield {
                "name": function.name,
                "comment": comment,
                "source": code,
                "asm": {level: strip_asm(t) for level, t in texts.items()} if names == "stripped" else texts,
                "ir": strip_ir(ir.get(function.name, "")) if names == "stripped" else ir.get(function.name, ""),
            }


def _read_part(path: Path, unit: Unit, root: Path, origin: Origin) -> list[dict[str, Any]]:
    part = read_json(path)
    assert part is not None, path
    start = {"package": origin.package, "version": origin.version, "license": origin.license}
    return [{**start, "file": str(unit.path.relative_to(root)), **row} for row in part["rows"]]


def _without_duplicates(rows: Sequence[dict[str, Any]], report: Report) -> Iterator[dict[str, Any]]:
    """Each source once, white space aside, the first one; counts what it gives."""
    seen = set()
    for row in rows:
        key = "".join(row["source"].split())
        if key in seen:
            report.duplicates += 1
            continue
        seen.add(key)
        report.functions += 1
        report.binaries += len(row["asm"])
        report.with_ir += bool(row["ir"])
        yield row


def _write(out: Path, rows: Iterator[dict[str, Any]]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    with replacing(out) as file:
        # Without a time in its header, the same triples are the same file.
        file.write(gzip.compress(text, 9, mtime=0) if out.suffix == ".gz" else text)
