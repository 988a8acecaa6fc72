"""Triples built with the gcc of this machine: what is in them, what failed, and that a stop changes nothing."""

import gzip
import json
import os
import shutil
import subprocess
import sys

import pytest

from runner.cli import run
from runner.code.build import Origin, build_triples
from runner.code.compiler import base_flags, find_tools, read_log, units_of
from runner.code.triple import read_triples
from runner.errors import DataError

pytestmark = pytest.mark.skipif(not (shutil.which("gcc") and shutil.which("objdump")), reason="no gcc here")

LIST = """
#include "list.h"

/* Copyright: nobody, this is not a description. */

/* Adds up the squares of all numbers in the list,
 * first to last. */
static int sum_squares(const struct list *l)
{
    int total = 0;
    /* not in the source column */
    for (; l != 0; l = l->next)
        total += l->value * l->value;
    return total;
}

// Reports the squares of a list
// to whoever reads the log.
void report_squares(const struct list *l, const char *name)
{
    if (l == 0) return;
    log_line("%s has %d", name, sum_squares(l) + SCALE * counted);
}

/* Too short. */
int next_value(const struct list *l) { return l->next ? l->next->value + l->value * 3 : l->value; }

int uncommented(const struct list *l) { return l->next ? l->next->value * 2 + l->value * 3 : 0; }
"""
HEADER = """
struct list { int value; struct list *next; };
extern int counted; void log_line(const char *, ...);
"""
MATH = """
/* Greatest common divisor by Euclid. */
int gcd(a, b)
    int a;
    int b;
{
    while (b != 0) { int rest = a % b; a = b; b = rest; }
    return a;
}

/* One of two definitions, of which one is compiled. */
#ifdef SCALE
/* One of two definitions, of which one is compiled. */
int scaled(int a) { int b = a * SCALE; while (b > 1000) b -= a + SCALE; return b; }
#else
/* One of two definitions, of which one is compiled. */
int scaled(int a) { int b = a * 2; while (b > 1000) b -= a + 222222; return b; }
#endif
"""
TWIN = MATH.replace("gcd(a, b)", "gcd( a,b )").replace("Greatest", "The greatest")
BROKEN = """
/* Does not compile at all, sadly. */
int f(int a) { a += 123456789; a *= 7; a -= 11; a <<= 3; return undeclared_name_one + a; }
"""

IR = "define i32 @gcd(i32 %0) #0 {\n  ret i32 0, !dbg !1\n}\nattributes #0 = { nounwind }\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A package of three sources, in two folders; there is no clang on the path."""
    (tmp_path / "include").mkdir()
    (tmp_path / "pkg" / "sub").mkdir(parents=True)
    (tmp_path / "include" / "list.h").write_text(HEADER)
    (tmp_path / "pkg" / "list.c").write_text(LIST)
    (tmp_path / "pkg" / "math.c").write_text(MATH)
    (tmp_path / "pkg" / "sub" / "twin.c").write_text(TWIN)
    bare = tmp_path / "bin"
    bare.mkdir()
    for tool in ("gcc", "objdump", "as"):
        (bare / tool).symlink_to(shutil.which(tool))
    monkeypatch.setenv("PATH", str(bare))
    monkeypatch.chdir(tmp_path)
    return tmp_path


SOURCES = ["pkg/list.c", "pkg/math.c", "pkg/sub/twin.c"]
FLAGS = "-Iinclude -DSCALE=3"


def build(folder, name="out.jsonl.gz", sources=SOURCES, gcc="gcc", flags=FLAGS, **options):
    units = units_of([folder / source for source in sources], flags, folder)
    return build_triples(units, folder / name, find_tools(gcc, options.pop("clang", None)), Origin(), **options)


def tool(folder, name, script):
    """A program of our own in front of the real one."""
    path = folder / "bin" / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return name


def test_rows_are_functions_with_comment_source_and_binaries(folder):
    report = build(folder)
    rows = {t.name: t for t in read_triples(folder / "out.jsonl.gz")}
    assert list(rows) == ["sum_squares", "report_squares", "gcd"]
    squares = rows["sum_squares"]
    assert (squares.package, squares.file, squares.ir) == ("pkg", "list.c", "")
    assert squares.comment == "Adds up the squares of all numbers in the list, first to last."
    assert squares.source.startswith("static int sum_squares(const struct list *l)\n{\n    int total = 0;\n    for")
    assert "O0" in squares.asm and "O2" not in squares.asm, "gcc puts it into its only caller"
    assert rows["report_squares"].comment == "Reports the squares of a list to whoever reads the log."
    assert rows["report_squares"].asm.keys() == {"O0", "O1", "O2", "O3"}
    assert "<log_line>" in rows["report_squares"].asm["O2"] and "<counted>" in rows["report_squares"].asm["O0"]
    assert rows["gcd"].file == "math.c" and rows["gcd"].source.startswith("int gcd(a, b)\n    int a;")
    assert report.line() == (
        f"3 files (0 done before): 0 failed, 0 without functions to take; 3 functions, {report.binaries} binaries, "
        "no IR: there is no clang here; 1 duplicates left out"
    )
    assert sorted(path.name for path in folder.glob("*out*")) == ["out.jsonl.gz"]


def test_the_file_does_not_depend_on_the_number_of_jobs(folder):
    build(folder, "one.jsonl.gz", jobs=1)
    build(folder, "two.jsonl.gz", jobs=2)
    build(folder, "plain.jsonl")
    assert (folder / "one.jsonl.gz").read_bytes() == (folder / "two.jsonl.gz").read_bytes()
    assert gzip.decompress((folder / "one.jsonl.gz").read_bytes()) == (folder / "plain.jsonl").read_bytes()


def test_names_can_be_stripped(folder):
    build(folder, names="stripped")
    for triple in read_triples(folder / "out.jsonl.gz"):
        assert triple.asm and all("<" not in text for text in triple.asm.values())


def test_what_does_not_compile_is_reported_and_left_out(folder):
    (folder / "pkg" / "broken.c").write_text(BROKEN)
    told = []
    report = build(folder, sources=[*SOURCES, "pkg/broken.c"], told=told.append)
    assert list(report.failures) == [str(folder / "pkg" / "broken.c")]
    assert told[0].startswith(f"{folder}/pkg/broken.c: gcc: ") and "undeclared_name_one" in told[0]
    assert "4 files (0 done before): 1 failed, 0 without functions to take; 3 functions" in report.line()
    assert "f" not in {t.name for t in read_triples(folder / "out.jsonl.gz")}
    with pytest.raises(
        DataError, match=r"none of 1 files compiles; the first is .*broken.c: gcc: .*undeclared_name_one"
    ):
        build(folder, "none.jsonl", sources=["pkg/broken.c"])
    assert not (folder / "none.jsonl").exists()


def test_a_mended_file_is_all_that_is_compiled_again(folder):
    gcc = tool(folder, "counting-gcc", f'echo "$*" >> {folder}/calls; exec {folder}/bin/gcc "$@"')
    (folder / "pkg" / "broken.c").write_text(BROKEN)
    sources = [*SOURCES, "pkg/broken.c"]
    build(folder, sources=sources, gcc=gcc)
    (folder / "calls").unlink()
    (folder / "pkg" / "broken.c").write_text(BROKEN.replace("undeclared_name_one", "123456789"))
    report = build(folder, sources=sources, gcc=gcc)
    compiled = [line for line in (folder / "calls").read_text().splitlines() if " -c " in line]
    assert len(compiled) == 4 and all("broken.c" in line for line in compiled)
    assert report.resumed == 3 and report.failures == {} and report.functions == 4


def test_a_killed_build_goes_on_where_it_was_and_gives_the_same_file(folder):
    build(folder, "whole.jsonl.gz")
    # Kills the build when it comes to the second file, the first being done.
    deadly = tool(folder, "gcc-12", f'case "$*" in *math.c*) kill -9 $PPID;; esac; exec {folder}/bin/gcc "$@"')
    command = [sys.executable, "-m", "runner", "data", "build-triples", *SOURCES, "--out", "out.jsonl.gz"]
    command += ["--flags", FLAGS, "--jobs", "1"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run([*command, "--gcc", deadly], cwd=folder, env=environment, capture_output=True)
    assert killed.returncode == -9, killed.stderr
    assert not (folder / "out.jsonl.gz").exists()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "3 files (1 done before): 0 failed" in done.stdout
    assert (folder / "out.jsonl.gz").read_bytes() == (folder / "whole.jsonl.gz").read_bytes()


def test_a_file_without_described_functions_is_counted(folder):
    (folder / "pkg" / "plain.c").write_text("int f(int a) { return a; }\n")
    assert "4 files (0 done before): 0 failed, 1 without" in build(folder, sources=[*SOURCES, "pkg/plain.c"]).line()


def test_a_file_that_does_not_compile_has_failed_whether_it_has_functions_to_take_or_not(folder):
    (folder / "pkg" / "bad.c").write_text("int f(void) { return undeclared_name_two; }\n")
    told = []
    report = build(folder, sources=[*SOURCES, "pkg/bad.c"], told=told.append)
    assert "4 files (0 done before): 1 failed, 0 without" in report.line() and "undeclared_name_two" in told[0]


def test_without_a_function_to_take_nothing_is_written(folder, capsys):
    (folder / "pkg" / "plain.c").write_text("int f(int a) { return a; }\n")
    (folder / "pkg" / "broken.c").write_text(BROKEN)
    assert run(["data", "build-triples", "pkg/plain.c", "--out", "x.jsonl.gz"]) == 2
    error = capsys.readouterr().err
    assert "x.jsonl.gz is not written: no function to take in 1 of 1 files; one needs a comment of 4 words" in error
    assert error.count("\n") == 1
    assert run(["data", "build-triples", "pkg/plain.c", "pkg/broken.c", "--out", "x.jsonl.gz"]) == 2
    assert "no function to take in 1 of 2 files, and 1 failed; one needs" in capsys.readouterr().err
    assert not (folder / "x.jsonl.gz").exists()


def test_other_flags_or_sources_use_no_parts_of_before(folder):
    (folder / "pkg" / "broken.c").write_text(BROKEN)
    sources = ["pkg/math.c", "pkg/broken.c"]
    assert build(folder, sources=sources).resumed == 0
    assert build(folder, sources=sources).resumed == 1
    assert build(folder, sources=sources, flags="-DSCALE=4").resumed == 0
    assert build(folder, sources=sources, names="stripped").resumed == 0
    (folder / "pkg" / "math.c").write_text(MATH + "\n")
    assert build(folder, sources=sources).resumed == 0


def test_ir_where_there_is_a_clang(folder):
    (folder / "ir.ll").write_text(IR)
    tool(folder, "clang-14", 'while [ "$1" != -o ]; do shift; done\nwhile read l; do echo "$l"; done < ir.ll > $2')
    tool(folder, "clang-9", "exit 1")
    report = build(folder)
    rows = {t.name: t.ir for t in read_triples(folder / "out.jsonl.gz")}
    assert rows["gcd"] == "define i32 @gcd(i32 %0) {\nret i32 0\n}" and rows["sum_squares"] == ""
    assert "1 with IR" in report.line()
    build(folder, names="stripped")
    assert {t.name: t.ir for t in read_triples(folder / "out.jsonl.gz")}["gcd"].startswith("define i32 @(i32 %0)")


def test_a_log_of_commands_says_how_each_file_is_compiled(folder):
    commands = [
        (
            folder,
            ["gcc", "-Iinclude", "-D", "SCALE=3", "-O2", "-g", "-MMD", "-MF", "x.d", "-c", "-o", "x.o", "pkg/list.c"],
        ),
        (folder / "pkg", ["cc", "-flto", "-Wall", "math.c", "-DSCALE=3"]),
        (folder / "pkg", ["cc", "math.c", "-DSCALE=7"]),
        (folder, ["gcc", "conftest.c"]),
        (folder, ["gcc", "a.c", "b.c"]),
        (folder, ["gcc", "x.o", "-o", "x"]),
    ]
    log = folder / "log.jsonl"
    log.write_text("".join(json.dumps({"cwd": str(cwd), "argv": argv}) + "\n" for cwd, argv in commands))
    units = read_log(log)
    assert [(u.path.name, u.folder.name, u.flags) for u in units] == [
        ("list.c", folder.name, ("-Iinclude", "-D", "SCALE=3")),
        ("math.c", "pkg", ("-Wall", "-DSCALE=3")),
    ]
    build_triples(units, folder / "log.jsonl.gz", find_tools(), Origin("p", "1.0", "MIT"))
    build(folder, "same.jsonl.gz", sources=SOURCES[:2])
    logged, listed = (list(read_triples(folder / name)) for name in ("log.jsonl.gz", "same.jsonl.gz"))
    assert [t.asm for t in logged] == [t.asm for t in listed]
    assert {(t.package, t.version, t.license) for t in logged} == {("p", "1.0", "MIT")}
    log.write_text('{"cwd": "/"}\n')
    with pytest.raises(DataError, match=r"log.jsonl: row 1 is not"):
        read_log(log)


def test_flags_that_decide_how_and_where_to_are_ours():
    words = "-c -S -O3 -Os -g3 -ggdb -MD -MP -MT a -Werror=x -flto=auto -pg -pipe -o x.o -Iq -std=c99 -fno-common"
    assert base_flags(words.split()) == ("-Iq", "-std=c99", "-fno-common")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "x.jsonl"], "give either SOURCES or --log"),
        (["pkg/math.c", "--log", "l", "--out", "x.jsonl"], "give either SOURCES or --log"),
        (["--log", "l", "--flags", "-I.", "--out", "x.jsonl"], "--flags '-I.' is for SOURCES"),
        (["--log", "l", "--out", "x.jsonl"], "l: cannot be read: No such file"),
        (["pkg/math.c", "--out", "x.csv"], "--out x.csv should end in .jsonl or .jsonl.gz"),
        (["pkg/none.c", "--out", "x.jsonl"], "no file pkg/none.c"),
        (["pkg/math.c", "--out", "x.jsonl", "--gcc", "icc"], "no icc on this machine"),
    ],
)
def test_mistakes_are_one_line(folder, capsys, arguments, message):
    assert run(["data", "build-triples", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_the_command_line_reports(folder, capsys):
    (folder / "pkg" / "broken.c").write_text(BROKEN)
    assert run(["data", "build-triples", *SOURCES, "pkg/broken.c", "--out", "x.jsonl", "--flags", FLAGS]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("x.jsonl: 4 files (0 done before): 1 failed, 0 without") and out.count("\n") == 1
    assert "pkg/broken.c: gcc:" in err
