"""What a user writes reaches sbatch as values and nothing else, and a name never leads out of the run root."""

import json
import os
import random
import re
import subprocess
from pathlib import Path
from string import printable

import pytest
from submitit.slurm.slurm import _make_sbatch_string

from runner.cli import run as cli
from runner.config import NAME_PATTERN, ResourcesConfig
from runner.dispatch import sbatch_parameters
from runner.errors import ConfigError
from runner.experiment import load_experiment, validate
from runner.files import write_yaml
from runner.profile import Profile
from runner.rundir import RunDir, experiment_dir, find_experiments, find_sweep, find_trial, find_trials
from runner.schema import build
from runner.strict_yaml import dump_yaml, parse_yaml
from runner.sweep import expand
from tests.experiments import write_experiment

FIELDS = ["partition", "account", "qos", "constraint", "nodelist", "exclude", "comment", "mail_user", "mail_type"]
PIECES = [
    *("\n", "\r", "\r\n", "\0", "\t", "\x1b", "\x85", "\u2028", "\ud800", "\\n", "%j", "%%", " ", "'", '"', "\\"),
    *("#SBATCH --account=other", "$(touch executed)", "`touch executed`", ";touch executed;", "|sh", "&", "--", "-"),
    *("a", "x" * 130, "../..", "/etc/passwd", "é", "~", "*", "{}", "${IFS}", "<", ">", "gpu", "node[1-3]"),
]
STRINGS = 10_000


def hostile(chance: random.Random) -> str:
    """A string that may be harmless, and mostly is not."""
    if chance.random() < 0.3:
        return "".join(chance.choice(printable) for _ in range(chance.randrange(1, 12)))
    return "".join(chance.choice(PIECES) for _ in range(chance.randrange(1, 5)))


def script(text: str, folder: Path) -> list[str]:
    """The batch script for a profile, by the code that submits."""
    site = build(Profile, parse_yaml(text, "site.yaml")[0])
    parameters = sbatch_parameters(ResourcesConfig(), site, folder / ".submissions" / "NEW")
    return _make_sbatch_string(command="true", folder=folder / "jobs", map_count=2, **parameters).splitlines()


def shape(lines: list[str]) -> list[str]:
    """The lines without the values of directives."""
    return [line.partition("=")[0] if line.startswith("#SBATCH") else line for line in lines]


TRIAL = {
    "method": {"name": "scl"},
    "encoder": {"name": "small_convnet"},
    "data": {"name": "cifar10"},
    "optimizer": {"lr": 1},
    "train": {"steps": 1, "batch_size": 2},
}


def test_ten_thousand_strings_add_no_line_to_a_script(tmp_path):
    """Values and keys of a profile, lines of its setup: each string is refused in one line, or stays in its place."""
    chance, folder = random.Random(0), tmp_path / "runs" / "tiny"
    taken, checked = [], 0
    plain = {}
    for field in [*FIELDS, "setup"]:
        plain[field] = script(
            f"{{cluster: slurm, {field}: {'[true and more]' if field == 'setup' else 'plain'}}}", folder
        )
    for number in range(STRINGS):
        text = hostile(chance)
        field = chance.choice([*FIELDS, "setup", "key"])
        document = {text: "x"} if field == "key" else {field: [text] if field == "setup" else text}
        try:
            # JSON is YAML, and can say every string.
            lines = script(json.dumps({"cluster": "slurm", **document}), folder)
        except ConfigError as error:
            assert str(error).isprintable(), text
            continue
        assert field != "key", f"{text!r} was taken for a key"
        if field == "setup":
            assert lines == [text if line == "true and more" else line for line in plain["setup"]]
        else:
            assert shape(lines) == shape(plain[field]), text
            assert sum(line.startswith(f"#SBATCH --{field.replace('_', '-')}=") for line in lines) == 1
        taken.append(text)
        if number % 100 == 0 and field != "setup":
            checked += 1
            done = subprocess.run(["bash", "-n"], input="\n".join(lines), text=True, capture_output=True)
            assert done.returncode == 0, done.stderr
    assert len(taken) > STRINGS / 50 and checked, "some of each kind"


def test_ten_thousand_names_are_safe_or_refused(tmp_path):
    chance, taken = random.Random(1), set()
    for _ in range(STRINGS):
        text = hostile(chance)
        try:
            name = validate({**TRIAL, "name": text}).name
        except ConfigError as error:
            assert str(error).isprintable()
            continue
        folder = experiment_dir(tmp_path, name)
        assert re.fullmatch(NAME_PATTERN, name) and folder.parent == tmp_path and ".." not in folder.parts
        taken.add(name)
    assert taken


@pytest.mark.parametrize("root", ["a\nb", "a%jb", "a\\b", "a\x1bb", "a\u2028b", "a\udc80b"])
@pytest.mark.parametrize("verb", ["submit", "debug"])
def test_a_root_that_would_be_read_otherwise_is_refused(tmp_path, capfd, root, verb):
    (tmp_path / "site.yaml").write_text("cluster: local")
    place = ["--on", str(tmp_path / "site.yaml")] if verb == "submit" else []
    assert cli([verb, str(write_experiment(tmp_path)), *place, "--root", str(tmp_path / root)]) == 2
    err = capfd.readouterr().err
    assert err.startswith("runner: run root ") and err.count("\n") == 1 and "no control characters, % or \\" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["site.yaml", "tiny.yaml"]


def make(folder: Path) -> RunDir:
    folder.mkdir(parents=True)
    write_yaml(folder / "config.yaml", {"name": folder.parent.name})
    return RunDir(folder)


@pytest.fixture
def root(tmp_path):
    """A run root with one trial, and a trial outside of it."""
    make(tmp_path / "runs" / "tiny" / "aa11")
    make(tmp_path / "outside" / "bb22")
    return tmp_path / "runs"


@pytest.mark.parametrize("name", ["../outside/bb22", "tiny/../../outside/bb", "..", "../outside", "tiny/..", "a\nb"])
def test_no_name_leads_out_of_the_run_root(root, capfd, monkeypatch, name):
    monkeypatch.chdir(root)
    for find in (find_trial, find_sweep):
        with pytest.raises(ConfigError, match=r"must be a name, or a path without \.\. and control characters"):
            find(root, name)
    for verb in (["cancel", "--yes"], ["retry"], ["show"], ["logs"]):
        assert cli([verb[0], name, *verb[1:], "--root", str(root)]) == 2
        assert capfd.readouterr().err.count("\n") == 1
    assert not list(root.parent.rglob("cancelled.json"))


def test_links_are_no_trials_and_no_experiments(root):
    (root / "tiny" / "cc33").symlink_to(root.parent / "outside" / "bb22")
    (root / "linked").symlink_to(root.parent / "outside")
    assert [run.trial for run in find_trials(root / "tiny")] == ["aa11"]
    assert [path.name for path in find_experiments(root)] == ["tiny"]
    with pytest.raises(ConfigError, match="no trial under"):
        find_trial(root, "cc33")
    with pytest.raises(ConfigError, match="no trials of that name"):
        find_sweep(root, "linked")


def test_a_run_folder_that_is_a_link_is_not_written_to(tmp_path, capfd):
    (tmp_path / "site.yaml").write_text("cluster: local")
    path = write_experiment(tmp_path)
    (variant,) = expand(load_experiment(path))
    (tmp_path / "outside").mkdir()
    (tmp_path / "runs" / "tiny").mkdir(parents=True, mode=0o700)
    (tmp_path / "runs").chmod(0o700)
    (tmp_path / "runs" / "tiny" / variant.trial_id).symlink_to(tmp_path / "outside")
    assert cli(["submit", str(path), "--on", str(tmp_path / "site.yaml"), "--root", str(tmp_path / "runs")]) == 2
    assert capfd.readouterr().err.endswith(f"{variant.trial_id}: is a link; run folders are folders\n")
    assert not os.listdir(tmp_path / "outside")


def test_an_experiment_name_is_told_as_written(tmp_path, capfd):
    path = tmp_path / "exp.yaml"
    path.write_text(dump_yaml({"name": "x\n#SBATCH --account=other"}))
    assert cli(["debug", str(path), "--root", str(tmp_path / "runs")]) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and 'name: "x\\n#SBATCH --account=other" is not allowed' in err
