"""C files to disassembly at four levels of optimisation, and to LLVM IR where there is a clang."""

import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from runner.code.assembly import OBJDUMP_FLAGS, read_objdump
from runner.code.ir import read_ir
from runner.errors import DataError, RunnerError

LEVELS = ("O0", "O1", "O2", "O3")
TIMEOUT_SECONDS = 240

_COMMON = ("-w", "-g0", "-fno-asynchronous-unwind-tables", "-fcf-protection=none", "-ffunction-sections", "-c")
_IR = ("-O1", "-fno-inline", "-w", "-g0", "-S", "-emit-llvm")
_WITH_VALUE = ("-o", "-MF", "-MT", "-MQ")
_LEFT_OUT = re.compile(r"-(?:c|S|E|O.*|g.*|M.*|Werror.*|flto.*|fno-lto|pg|pipe|save-temps.*)$")


class CompileError(RunnerError):
    """A file does not compile, or not in time."""


@dataclass(frozen=True)
class Unit:
    """A C file and how it is compiled: flags without levels, outputs and what else we decide."""

    path: Path
    folder: Path
    """Where the compiler runs, so that relative -I are right."""

    flags: tuple[str, ...]


@dataclass(frozen=True)
class Tools:
    """The compilers of a build."""

    gcc: str
    objdump: str
    clang: str | None
    versions: tuple[str, ...]
    """The first line each says of itself."""


def find_tools(gcc: str = "gcc", clang: str | None = None) -> Tools:
    """Raises DataError without gcc or objdump, or when gcc does not compile for x86-64.

    Without `clang`, the newest clang on the path is taken, or none.
    """
    paths = {}
    for name in (gcc, "objdump", *([clang] if clang else [])):
        if (found := shutil.which(name)) is None:
            raise DataError(
                f"build-triples: no {name} on this machine; it comes with the package gcc, binutils or clang"
            )
        paths[name] = found
    machine = _ask(paths[gcc], "-dumpmachine")
    if not machine.startswith("x86_64"):
        raise DataError(f"build-triples: {gcc} compiles for {machine}; the disassembly is that of x86_64")
    found_clang = paths[clang] if clang else _newest_clang()
    named = [path for path in (paths[gcc], paths["objdump"], found_clang) if path]
    return Tools(paths[gcc], paths["objdump"], found_clang, tuple(_ask(path, "--version") for path in named))


def _newest_clang() -> str | None:
    names = {name for folder in os.get_exec_path() if os.path.isdir(folder) for name in os.listdir(folder)}
    numbered = sorted((int(name[6:]) for name in names if re.fullmatch(r"clang-\d+", name)), reverse=True)
    return next(filter(None, map(shutil.which, ["clang", *(f"clang-{number}" for number in numbered)])), None)


def _ask(path: str, option: str) -> str:
    done = subprocess.run([path, option], capture_output=True, text=True, errors="replace", check=False)
    return (done.stdout.splitlines() or [""])[0].strip()


def units_of(sources: Iterable[Path], flags: str, folder: Path) -> list[Unit]:
    """The files, all compiled with the same flags from the same folder; raises DataError for one not there."""
    units = []
    try:
        words = shlex.split(flags)
    except ValueError as error:
        raise DataError(f"--flags: {flags!r} is not allowed; {error}") from error
    for path in sources:
        if not path.is_file():
            raise DataError(f"build-triples: no file {path}")
        units.append(Unit(path.resolve(), folder.resolve(), base_flags(words)))
    return units


def read_log(path: Path) -> list[Unit]:
    """The files of a log of compile commands, JSON lines of {"cwd", "argv"}, each file once.

    Commands with more or fewer than one .c file, and those of configure (conftest.c), are passed over. Raises
    DataError for a missing file or a broken row.
    """
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    units: dict[Path, Unit] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            folder, argv = Path(row["cwd"]), [str(word) for word in row["argv"]]
        except (ValueError, KeyError, TypeError):
            raise DataError(f'{path}: row {number} is not {{"cwd": folder, "argv": [words]}}') from None
        files = [word for word in argv[1:] if word.endswith(".c")]
        if len(files) == 1 and Path(files[0]).name != "conftest.c":
            source = (folder / files[0]).resolve()
            units.setdefault(source, Unit(source, folder, base_flags(w for w in argv[1:] if w != files[0])))
    return list(units.values())


def base_flags(words: Iterable[str]) -> tuple[str, ...]:
    """The flags that say what the code is, without those that say how it is compiled and where to."""
    kept, skip = [], False
    for word in words:
        if skip or word in _WITH_VALUE:
            skip = not skip
        elif not _LEFT_OUT.match(word):
            kept.append(word)
    return tuple(kept)


def compile_unit(unit: Unit, tools: Tools) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Disassembly by level and function, and IR by function; raises CompileError if any of it fails."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="triples-", dir=memory if memory.is_dir() else None) as folder:
        built = {}
        for level in LEVELS:
            target = f"{folder}/{level}.o"
            _run([tools.gcc, *unit.flags, f"-{level}", *_COMMON, str(unit.path), "-o", target], unit.folder)
            built[level] = read_objdump(_run([tools.objdump, *OBJDUMP_FLAGS, target], unit.folder))
        if tools.clang is None:
            return built, {}
        target = f"{folder}/ir.ll"
        _run([tools.clang, *unit.flags, *_IR, str(unit.path), "-o", target], unit.folder)
        return built, read_ir(Path(target).read_text(errors="replace"))


def check_unit(unit: Unit, tools: Tools) -> None:
    """Raise CompileError for a file that does not compile, without the work of compiling it."""
    _run([tools.gcc, *unit.flags, "-w", "-fsyntax-only", str(unit.path)], unit.folder)


def _run(command: Sequence[str], folder: Path) -> str:
    """The output of a command; raises CompileError with its first complaint."""
    program = Path(command[0]).name
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise CompileError(f"{program} took more than {TIMEOUT_SECONDS} s") from None
    except OSError as error:
        raise CompileError(f"{program} did not start in {folder}: {error.strerror}") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        complaint = next((line for line in lines if "error" in line), lines[0] if lines else f"exit {done.returncode}")
        raise CompileError(f"{program}: {complaint.strip()}")
    return done.stdout
