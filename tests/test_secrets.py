"""A secret that the user has stands in no file of a run, wherever it came from."""

import gzip
import json
import os
import subprocess
from pathlib import Path

import pytest

from runner.cli import run as cli
from runner.errors import ConfigError
from runner.experiment import load_experiment
from runner.masking import format_error, holds_secret, secret_values
from runner.profile import load_profile
from tests.experiments import run_cli, write_experiment
from tests.slurm_cluster import wait_for

SENTINEL = "sentinel" + "0123456789abcdef" * 2
SMALL = {"data": {"limit": 64}, "train": {"steps": 4}, "schedule": {"warmup_steps": 0}}
MIRRORED = {"tracking": {"every_steps": 2, "wandb": {"mode": "offline"}}}


@pytest.fixture
def place(tmp_path):
    """A checkout whose remote has a token in its URL, with an environment full of the same secret."""
    here = tmp_path / "here"
    here.mkdir()
    remote = f"https://{SENTINEL}@example.org/lab/code.git"
    for command in (["init", "-q"], ["remote", "add", "origin", remote], ["config", "user.email", "a@b.c"]):
        subprocess.run(["git", *command], cwd=here, check=True)
    (tmp_path / "home").mkdir()
    environment = os.environ | {
        "HOME": str(tmp_path / "home"),
        "WANDB_API_KEY": SENTINEL,
        "LAB_TOKEN": SENTINEL,
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "remote.origin.url",
        "GIT_CONFIG_VALUE_0": remote,
        "SLURM_JOB_COMMENT": f"with {SENTINEL}",
        "SLURM_JWT": SENTINEL,
    }
    return {"cwd": here, "env": environment, "umask": 0o077}


def search(folder: Path) -> list[str]:
    """Every file below, links too, that has the secret in it or in its name."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 5
    found = [path for path in files if SENTINEL.encode() in path.read_bytes() or SENTINEL in str(path)]
    return [str(path.relative_to(folder)) for path in found]


def broken_triples(folder: Path) -> Path:
    """Data whose error message shows what is in them, as exceptions do."""
    path = folder / "triples.jsonl.gz"
    row = {"package": [SENTINEL, f"https://me:{SENTINEL}@host"], "file": "", "name": "", "comment": "", "source": ""}
    path.write_bytes(gzip.compress(json.dumps({**row, "asm": {}}).encode()))
    return path


def failing_experiment(folder: Path, ranks: int = 1) -> Path:
    data = {"name": "code_triples", "paths": [str(broken_triples(folder))], "test_packages": ["a"]}
    groups = {"method": {"name": "contrabin"}, "encoder": {"name": "bag_of_tokens"}, "data": data}
    path = write_experiment(folder, without=(*groups, "views"), **groups, resources={"ranks": ranks})
    return path


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["debug", "submit"])
def test_a_run_that_goes_well_keeps_none(tmp_path, place, verb):
    path, root = write_experiment(tmp_path, **SMALL, **MIRRORED), tmp_path / "runs"
    (tmp_path / "site.yaml").write_text("cluster: local")
    words = ["debug", path] if verb == "debug" else ["submit", path, "--on", tmp_path / "site.yaml", "--wait"]
    for number in range(5):
        done = run_cli(*words, "--root", root / str(number), **place)
        assert done.returncode == 0, done.stdout + done.stderr
        assert search(root) == [] and SENTINEL not in done.stdout + done.stderr
        # On a busy machine W&B may take longer to start than it is waited for.
        if list(root.rglob("*.wandb")):
            break
    assert list(root.rglob("*.wandb")) and list(root.rglob("provenance.json"))


@pytest.mark.slow
def test_a_failure_in_the_queue_keeps_none(tmp_path, place):
    """The message goes into logs, traceback, crash and failure files, and into what submitit would pickle."""
    path, root = failing_experiment(tmp_path), tmp_path / "runs"
    (tmp_path / "site.yaml").write_text("cluster: local")
    done = run_cli("submit", path, "--on", tmp_path / "site.yaml", "--wait", "--root", root, **place)
    assert done.returncode == 1, done.stdout + done.stderr
    (failure,) = wait_for(lambda: list(root.rglob("failure.json")), 60, "the failure")
    assert "'package' is ['***'" in json.loads(failure.read_text())["error"], "told, without the secret"
    logs = "".join(path.read_text() for path in root.rglob("*.log"))
    assert "DataError" in logs and "Traceback" in logs
    assert search(root) == [] and SENTINEL not in done.stdout + done.stderr


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.ddp
def test_a_failure_on_two_ranks_in_the_foreground_keeps_none(tmp_path, place):
    path, root = failing_experiment(tmp_path, ranks=2), tmp_path / "runs"
    done = run_cli("debug", path, "--root", root, **place)
    assert done.returncode == 2 and "'package' is ['***'" in done.stderr
    assert SENTINEL not in done.stdout + done.stderr
    assert not root.exists(), "a mistake in the data leaves nothing"


VALUES = {
    "of the environment": SENTINEL,
    "within a text": f"run with {SENTINEL} on",
    "a URL with a password": "https://me:hunter22@example.org/x",
    "of a known shape": "ghp_" + "a1" * 18,
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
@pytest.mark.parametrize("way", ["override", "file", "sweep", "profile"])
def test_configs_hold_no_secret(tmp_path, capfd, monkeypatch, value, way):
    """Refused, since masking it would make another config of it; and not shown in the refusal."""
    monkeypatch.setenv("LAB_TOKEN", SENTINEL)
    groups = {"tracking": {"wandb": {"entity": value}}} if way == "file" else {}
    sweep = {"grid": {"method.tag": ["a", value]}} if way == "sweep" else None
    path = write_experiment(tmp_path, sweep=sweep, **groups)
    words = [f"tracking.wandb.tags=['{value}']"] if way == "override" else []
    setup = {"setup": [f"export X='{value}'"]} if way == "profile" else {}
    (tmp_path / "site.yaml").write_text(json.dumps({"cluster": "local", **setup}))
    site = str(tmp_path / "site.yaml")
    assert cli(["submit", str(path), *words, "--on", site, "--root", str(tmp_path / "runs")]) == 2
    err = capfd.readouterr().err
    assert "holds a secret; configs hold none" in err and err.count("\n") == 1
    assert value not in err and SENTINEL not in err and "hunter22" not in err
    assert not (tmp_path / "runs").exists()


LOGINS = "curl -H 'Authorization: Bearer 9f8e7d6c5b4a' x", "wandb login --host https://x.y '9f8e7d6c5b4a9f8e7d6c'"


@pytest.mark.parametrize("line", LOGINS)
def test_a_line_of_a_profile_holds_no_login(tmp_path, line):
    path = tmp_path / "site.yaml"
    path.write_text(json.dumps({"cluster": "local", "setup": [line]}))
    with pytest.raises(ConfigError, match=r"setup\.0: holds a secret"):
        load_profile(path)


def test_what_only_looks_like_one_is_allowed(monkeypatch):
    monkeypatch.setenv("LAB_TOKEN", SENTINEL)
    for text in (
        "basic augmentation",
        "https://example.org/x",
        "git@example.org:x/y",
        "https://me@host/x",
        "bearer of news",
        "wandb login --relogin",
        "wandb login beforehand",
        "authorization: none",
    ):
        assert not holds_secret(text, secret_values())


def test_a_secret_named_as_a_file_is_allowed(tmp_path, monkeypatch):
    monkeypatch.setenv("SSH_KEY", str(tmp_path))
    assert load_experiment(write_experiment(tmp_path, init_from=str(tmp_path / "x.pt"))).name == "tiny"


def test_an_error_with_its_causes_is_masked(monkeypatch):
    monkeypatch.setenv("LAB_TOKEN", SENTINEL)
    try:
        try:
            raise OSError(f"no answer from https://me:{SENTINEL}@host")
        except OSError as error:
            raise ValueError(f"with {SENTINEL}") from error
    except ValueError as error:
        text = format_error(error)
    assert SENTINEL not in text and "ValueError: with ***" in text and "https://***@host" in text


def test_the_profile_says_where_it_is(tmp_path):
    (tmp_path / "site.yaml").write_text("cluster: slurm\ncomment: x\nsetup: ['curl https://me:hunter22@host']\n")
    with pytest.raises(ConfigError, match=r"site\.yaml:3: setup\.0: holds a secret"):
        load_profile(tmp_path / "site.yaml")
