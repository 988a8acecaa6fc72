"""Files and folders of the command line: what cannot be meant is one line and exit code 2, before any work is done."""

import os
import shutil
import subprocess
import sys
import typing
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from runner import cli
from runner.errors import ConfigError
from runner.files import replacing
from runner.paths import file_to_write, folder
from runner.profile import find_profile
from tests.experiments import write_experiment
from tests.trials import make_trial

GIVEN = {
    "--csv": ["results", "exp"],
    "--parquet": ["results", "exp"],
    "--plot": ["results", "exp"],
    "--out": ["plot", "exp"],
    "--out ": ["report", "exp"],
    "--out  ": ["plan", "tiny.yaml", "--on", "local"],
    "--out   ": ["init", "--yes"],
    "--out    ": ["data", "build-triples", "x.c"],
    "--plot ": ["goodput", "exp"],
    "": ["export", "exp/abc"],
}
"""What stands before the name of a file that is to be written; blanks tell options of one name apart."""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with an experiment, a run root and a trial in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RUNNER_ROOT", raising=False)
    write_experiment(tmp_path)
    make_trial(tmp_path / "runs", "abc")
    (tmp_path / "folder").mkdir()
    return tmp_path


def told(capfd, *arguments: str) -> str:
    """The one line of a command that is refused."""
    assert cli.run([*arguments]) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.startswith("runner: ") and err.count("\n") == 1 and "Traceback" not in err
    return err


def everything(top: Path) -> list[tuple[Path, int]]:
    return sorted((path, path.stat().st_mtime_ns) for path in top.rglob("*"))


@pytest.mark.parametrize("option", GIVEN)
def test_what_is_no_file_to_write_is_refused(here, capfd, option):
    before = everything(here)
    name = [option.strip()] if option.strip() else []
    for value, why in {
        "": "'': is empty; give a file, such as ",
        ".": ".: is a folder; give a file, such as ",
        "folder": "folder: is a folder; give a file",
        "tiny.yaml/x.png": "tiny.yaml/x.png: tiny.yaml is no folder",
    }.items():
        assert f"runner: {(name or ['FILE'])[0]} {why}" in told(capfd, *GIVEN[option], *name, value)
    assert everything(here) == before


@pytest.mark.parametrize(
    "command",
    [
        ["embed", "exp/abc", "--out"],
        ["reproduce", "exp/abc", "--into"],
        ["sync", "exp", "--to"],
        ["onebox", "status", "--folder"],
        ["new", "method", "mine", "--into"],
        ["submit", "tiny.yaml", "--on", "local", "--root"],
        ["status", "--root"],
        ["--root"],
    ],
)
def test_what_is_no_folder_is_refused(here, capfd, command):
    before = everything(here)
    verb = ["status"] if command == ["--root"] else []
    assert f"{command[-1]} '': is empty; give a folder" in told(capfd, *command, "", *verb)
    for value in ("tiny.yaml", "/dev/null"):
        assert f"{command[-1]} {value}: is no folder; give another" in told(capfd, *command, value, *verb)
    assert everything(here) == before


def test_an_experiment_is_a_file(here, capfd):
    for verb in (["debug"], ["plan", "--on", "local"], ["apply", "--on", "local"]):
        assert "'': is empty; give " in told(capfd, *verb, "")
        assert "folder: is a folder; give " in told(capfd, *verb, "folder")
    assert "runner: nofile.json: does not exist; give a file that `runner plan --out` wrote" in told(
        capfd, "apply", "nofile.json"
    )


def parameters(app: typer.Typer):
    """(verb, name, annotation) of every parameter of every verb."""
    for each in [app, *(group.typer_instance for group in app.registered_groups)]:
        for command in each.registered_commands:
            for name, hint in typing.get_type_hints(command.callback, include_extras=True).items():
                yield command.callback.__name__, name, hint


def test_every_path_of_every_verb_is_checked():
    paths = [(verb, name, hint) for verb, name, hint in parameters(cli.app) if "pathlib" in str(hint)]
    assert len(paths) > 40
    for verb, name, hint in paths:
        (info,) = getattr(hint, "__metadata__", None) or typing.get_args(hint)[0].__metadata__
        assert info.parser is not None, f"{verb}: {name}"


def test_homes_are_expanded_where_the_shell_did_not(here, capfd, monkeypatch):
    monkeypatch.setenv("HOME", str(here / "home"))
    assert folder("--root")("~/zz") == here / "home" / "zz"
    with pytest.raises(ConfigError, match="--root ~nobody-here/x: no home folder is known for ~nobody-here"):
        folder("--root")("~nobody-here/x")
    monkeypatch.setenv("RUNNER_ROOT", "~/zz")
    assert f"RUNNER_ROOT {here}/home/zz: does not exist" in told(capfd, "status")


@pytest.mark.parametrize("verb", [["status"], ["results", "exp"], ["show", "abc"], ["cancel", "exp"], ["code"]])
def test_a_root_that_does_not_exist_is_not_empty(here, capfd, monkeypatch, verb):
    assert "--root nope: does not exist; give the folder" in told(capfd, *verb, "--root", "nope")
    monkeypatch.setenv("RUNNER_ROOT", "nope")
    assert "RUNNER_ROOT nope: does not exist" in told(capfd, *verb)
    assert not (here / "nope").exists()


def test_an_empty_runner_root_counts_as_unset(here, capfd, monkeypatch):
    monkeypatch.setenv("RUNNER_ROOT", "")
    assert cli.run(["status"]) == 0 and "abc" in capfd.readouterr().out
    shutil.rmtree("runs")
    assert cli.run(["status"]) == 0 and capfd.readouterr().out == "no trials under runs\n"


def test_a_stream_may_be_written_to(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (Path("/dev/stdout"), Path("/dev/null"), tmp_path / "pipe"):
        assert file_to_write("--csv", "a.csv")(str(path)) == path


def test_a_path_without_a_name_is_a_folder():
    with pytest.raises(IsADirectoryError), replacing(Path(".")):
        pass


def test_profiles_are_found_here_and_in_slurm(here):
    (here / "p1.yaml").write_text("cluster: local")
    (here / "README.md").touch()
    assert find_profile("p1.yaml") == Path("p1.yaml")
    assert find_profile("local.yaml") == find_profile("local")
    for name, why in {
        "README.md": "^profile README.md: is no .yaml file; give one, or a name in slurm: a100, local, ",
        "": "^profile '': is empty; give one, or a name in slurm: a100, ",
        "p2.yaml": "^profile not found: p2.yaml, here or in slurm; there is a100, ",
        "locl.yaml": 'locl.yaml, here or in slurm; did you mean "local"',
    }.items():
        with pytest.raises(ConfigError, match=why):
            find_profile(name)


def test_without_a_verb_there_is_help(capfd):
    for words in ([], ["onebox"], ["data"]):
        assert cli.run(words) == 2
        out, err = capfd.readouterr()
        assert out == "" and err.startswith(f"Usage: {' '.join(['runner', *words])} ") and len(err.splitlines()) > 5


def test_no_summary_of_a_command_is_cut(capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for words in ([], ["onebox"], ["data"]):
        assert cli.run([*words, "--help"]) == 0
        lines = capfd.readouterr().out.partition("Commands:")[2].strip().splitlines()
        assert lines and not [line for line in lines if line.endswith("...")]
        group = get_command(cli.app)
        commands = group.commands if not words else group.commands[words[0]].commands
        assert len(lines) == len(commands), "each has one line"


def test_the_version_and_the_commit_of_a_snapshot(tmp_path, capfd):
    assert cli.run(["--version"]) == 0
    version = capfd.readouterr().out
    assert version.startswith("runner 0.") and version.count("\n") == 1
    home = tmp_path / ".code" / "0123456789ab"
    shutil.copytree(Path(cli.__file__).parent, home / "runner", ignore=shutil.ignore_patterns("__pycache__"))
    run = make_trial(tmp_path, "abc")
    run.provenance.write_text('{"snapshot": {"code": "0123456789ab"}, "git": {"sha": "c0ffee", "dirty": true}}')
    code = "import sys; from runner.cli import run; run(['--version']); assert 'torch' not in sys.modules"
    environment = os.environ | {"PYTHONPATH": str(home), "PYTHONSAFEPATH": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=30)
    expected = f"{version.strip()}, code 0123456789ab of commit c0ffee with changes in {home}\n"
    assert (done.returncode, done.stdout) == (0, expected), done.stderr


def test_slurm_without_a_configuration_is_no_slurm(here, capfd, monkeypatch):
    if shutil.which("scontrol") is None or Path("/etc/slurm/slurm.conf").exists():
        pytest.skip("needs Slurm's packages without a cluster")
    monkeypatch.delenv("SLURM_CONF", raising=False)
    monkeypatch.setenv("RUNNER_ONEBOX", str(here / "box"))
    (here / "box").mkdir()
    (here / "box" / "env").touch()
    assert cli.run(["init", "--yes"]) == 0
    out, err = capfd.readouterr()
    assert "wrote slurm/local.yaml" in out and "no slurm.conf, so this is a profile of this machine alone; " in err
    assert f"source {here}/box/env" in err
    assert cli.run(["doctor", "--on", "local"]) == 0
    (here / "site.yaml").write_text("cluster: slurm")
    capfd.readouterr()
    assert cli.run(["doctor", "--on", "site.yaml"]) == 1
    line = next(line for line in capfd.readouterr().out.splitlines() if line.startswith("fail"))
    assert "Slurm is installed here, but has no slurm.conf" in line and "DNS SRV" not in line


def test_without_a_onebox_it_says_how_to_have_one(here, capfd):
    assert f"{here}/box: no onebox there; `runner onebox up` starts one\n" in told(
        capfd, "onebox", "status", "--folder", "box"
    )


def test_a_picture_without_a_home_is_drawn_in_silence(tmp_path):
    make_trial(tmp_path, "abc", metrics=[{"step": 1, "time": 1.0, "attempt": 1, "train/loss": 1.0}])
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MPL", "XDG_"))}
    command = [sys.executable, "-m", "runner", "plot", "exp", "--root", str(tmp_path), "--out", str(tmp_path / "a.svg")]
    done = subprocess.run(command, env=environment | {"HOME": "/dev/null"}, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "") and (tmp_path / "a.svg").exists()
