"""`runner list` and what shells complete: all there is, in no time, without importing any of it."""

import json
import os
import resource
import shutil
import subprocess
import sys

import pytest

from runner import listing, named
from runner.cli import run
from tests.packages import install, site
from tests.test_plugins import HALF

__all__ = ["site"]

SHELLS = {"bash": "complete", "zsh": "#compdef"}


def completed(words: str, at: int) -> subprocess.CompletedProcess[str]:
    """What bash is told for word `at` of a command line, by a process of its own."""
    told = {"_RUNNER_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(at)}
    command = [sys.executable, "-m", "runner"]
    return subprocess.run(command, env={**os.environ, **told}, capture_output=True, text=True, timeout=60)


@pytest.fixture
def complete(monkeypatch, capfd):
    """The same in this process."""

    def call(words: str, at: int) -> list[str]:
        with monkeypatch.context() as patch:
            patch.setenv("_RUNNER_COMPLETE", "complete_bash")
            patch.setenv("COMP_WORDS", words)
            patch.setenv("COMP_CWORD", str(at))
            with pytest.raises(SystemExit):
                run([])
        return capfd.readouterr().out.split()

    return call


def test_every_plug_in_is_listed_with_a_summary(capfd):
    assert run(["list", "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert list(document) == listing.KINDS
    for family in named.FAMILIES:
        assert [entry["name"] for entry in document[family]] == named.names(family)
        assert [entry["name"] for entry in document[family] if not entry["summary"]] == []
    assert {"local", "a100"} <= {entry["name"] for entry in document["profiles"]}
    assert "experiments/quickstart.yaml" in {entry["name"] for entry in document["experiments"]}


def test_a_line_each_for_people(capfd, site):
    install(site, "my-lab", {"schedules/half": HALF, "schedules/linear": HALF})
    assert run(["list", "schedules"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert "half                Half of the learning rate, always. [my-lab 0.1]" in lines
    assert "linear              of 2 packages: none can be used [my-lab 0.1]" in lines
    assert "my_lab" not in sys.modules


def test_the_options_of_one(capfd):
    assert run(["list", "methods", "scl"]) == 0
    rows = {line.split()[0]: " ".join(line.split()) for line in capfd.readouterr().out.splitlines()}
    assert rows["gamma"].startswith("gamma number (at least 0) 1.0 Confidence penalty")
    assert rows["max_scale"].startswith("max_scale number (above 0) or null 5.0 ")
    assert run(["list", "encoders", "small_convnet", "--json"]) == 0
    options = {option["name"]: option for option in json.loads(capfd.readouterr().out)}
    assert options["norm"]["kind"] == "batch or group"
    assert (
        options["widths"]["kind"] == "list of integer (at least 1)"
        and options["widths"]["default"] == "[16, 32, 64, 128]"
    )


@pytest.mark.parametrize("family", named.FAMILIES)
def test_every_option_can_be_told(family):
    for name in named.names(family):
        for option in listing.options(family, name):
            assert option.kind and option.text, f"{family} {name} {option}"


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["method"], 'list: "method" is not allowed; did you mean "methods"?'),
        (["methods", "sc"], 'list methods: "sc" is not allowed; did you mean "scl"?'),
        (["profiles", "local"], 'list: "profiles" have no options; there is '),
    ],
)
def test_mistakes_are_one_line(words, problem, capfd):
    assert run(["list", *words]) == 2
    assert problem in capfd.readouterr().err


def test_shells_complete_names(tmp_path, monkeypatch, site, complete):
    install(site, "my-lab", {"methods/simple": "raise SystemExit('not to be imported')"})
    (tmp_path / "experiments" / "a").mkdir(parents=True)
    (tmp_path / "experiments" / "a" / "b.yaml").touch()
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm" / "mine.yaml").touch()
    for trial in ("gamma/aa11", "gamma/aa22", "other/bb11"):
        (tmp_path / "runs" / trial).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert complete("runner de", 1) == ["debug"]
    assert complete("runner submit exp", 2) == ["experiments/a/b.yaml"]
    assert complete("runner debug /nowhere/", 2) == [], "the shell completes files"
    assert complete("runner submit x --on m", 4) == ["mine"]
    assert complete("runner list methods sim", 3) == ["simclr", "simple", "simsiam"]
    assert complete("runner results g", 2) == ["gamma"]
    assert complete("runner show aa", 2) == ["aa11", "aa22"]
    assert complete("runner logs other/", 2) == ["other/bb11"]
    assert complete("runner cancel a", 2) == ["aa11", "aa22"]
    assert complete("runner --root none show a", 4) == []
    monkeypatch.setenv("RUNNER_ROOT", str(tmp_path / "none"))
    assert complete("runner show a", 2) == []


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_gets_its_script(shell):
    environment = {**os.environ, "_RUNNER_COMPLETE": f"source_{shell}"}
    command = [sys.executable, "-m", "runner"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert SHELLS[shell] in done.stdout and "_RUNNER_COMPLETE" in done.stdout
    if path := shutil.which(shell):
        assert subprocess.run([path, "-n"], input=done.stdout, text=True, timeout=30).returncode == 0


def test_bash_itself_completes(tmp_path):
    """The script, as bash runs it."""
    (tmp_path / "runner").write_text(f'#!/bin/sh\nexec {sys.executable} -m runner "$@"\n')
    (tmp_path / "runner").chmod(0o755)
    script = """
        eval "$(_RUNNER_COMPLETE=source_bash runner)"
        COMP_WORDS=(runner list encoders small_c) COMP_CWORD=3
        _runner_completion runner
        echo "${COMPREPLY[@]}"
    """
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout == "small_convnet\n", done.stderr


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh here")
def test_zsh_itself_completes(tmp_path):
    """The script, as zsh runs it, up to what it gives to zsh's own function."""
    (tmp_path / "runner").write_text(f'#!/bin/sh\nexec {sys.executable} -m runner "$@"\n')
    (tmp_path / "runner").chmod(0o755)
    script = f"""
        autoload -Uz compinit; compinit -u -d {tmp_path}/dump
        eval "$(_RUNNER_COMPLETE=source_zsh runner)"
        _arguments() {{ print -r -- "$@" }}
        words=(runner list encoders small_c) CURRENT=4
        _runner_completion
    """
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["zsh", "-f", "-c", script], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout == '*: :(("small_convnet"))\n', done.stderr


def test_completion_is_quick():
    """In seconds of the CPU, which other processes do not change: 0.11 where this was written."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    least = 9.0
    for _ in range(3):
        assert "simclr" in completed("runner list methods s", 3).stdout
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        least = min(least, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        before = after
    assert least < 0.3


def test_completion_and_lists_import_nothing_heavy():
    code = """
import sys
from runner.cli import run
run(["list"])
assert not {"torch", "numpy", "transformers"} & set(sys.modules), "runner list"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
