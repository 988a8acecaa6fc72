"""Provenance says what was run and never keeps a secret."""

import json
import subprocess
from pathlib import Path

import pytest

from runner import provenance
from runner.masking import is_secret_name, mask_command, mask_text
from runner.provenance import collect

SENTINEL = "Sentinel7-never-to-be-seen"


def test_no_secret_of_environment_or_command_line_is_kept(monkeypatch):
    for name in (
        "WANDB_API_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "HF_TOKEN",
        "SLURM_JWT",
        "SLURM_DB_PASSWORD",
        "NOT_LISTED",
    ):
        monkeypatch.setenv(name, SENTINEL)
    monkeypatch.setenv("SLURM_JOB_COMMENT", f"runs with {SENTINEL}")
    command = [
        "runner",
        "submit",
        "x.yaml",
        f"WANDB_API_KEY={SENTINEL}",
        "--api-key",
        SENTINEL,
        f"--token={SENTINEL}",
    ]
    command += [f"https://me:{SENTINEL}@host/data", f"--header=X-Api-Key: {SENTINEL}", f"bare {SENTINEL}"]
    command += [
        f"tracking.wandb.password={SENTINEL}",
        f"Authorization: Bearer {SENTINEL}",
        f'{{"secret": "{SENTINEL}"}}',
    ]
    document, _ = collect(command)
    assert document["nonce"] != collect(command)[0]["nonce"]
    assert SENTINEL not in json.dumps(document)
    assert document["command"].startswith("runner submit x.yaml WANDB_API_KEY=*** --api-key *** --token=***")


def test_secrets_on_the_command_line_are_masked_without_their_variable():
    command = [
        "runner",
        f"API_KEY={SENTINEL}",
        "--password",
        SENTINEL,
        "hf_abcdefghijklmnopqrstuvwx",
        "sk-0123456789abcdefgh",
    ]
    assert mask_command(command) == "runner API_KEY=*** --password *** *** ***"
    assert mask_text(f"git clone https://me:{SENTINEL}@host/x.git") == "git clone https://***@host/x.git"


def test_what_is_no_secret_stays_readable():
    command = [
        "runner",
        "submit",
        "a b.yaml",
        "encoder.key_dim=64",
        "data.max_tokens=512",
        "method.monkey=1",
        "--wait",
    ]
    assert (
        mask_command(command)
        == "runner submit 'a b.yaml' encoder.key_dim=64 data.max_tokens=512 method.monkey=1 --wait"
    )


@pytest.mark.parametrize("name", ["WANDB_API_KEY", "token", "--hf-token", "db.password", "apiKey", "MY_SECRET_NAME"])
def test_secret_names(name):
    assert is_secret_name(name)


@pytest.mark.parametrize("name", ["key_dim", "max_tokens", "queue_keys", "authors", "monkey", "path", ""])
def test_names_that_hold_no_secret(name):
    assert not is_secret_name(name)


def test_environment_is_a_list_of_the_allowed(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("HOME", "/home/me")
    kept = collect(["runner"])[0]["environment"]
    assert kept["SLURM_JOB_ID"] == "12" and kept["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert all(name.startswith("SLURM_") or name == "CUDA_VISIBLE_DEVICES" for name in kept)


def test_versions_and_machine():
    document, _ = collect(["runner"])
    assert document["packages"]["torch"] and document["packages"]["submitit"]
    assert document["host"] and document["user"] and document["python"].count(".") == 2


def _checkout(folder: Path) -> Path:
    """A git checkout that holds a package."""
    package = folder / "package"
    package.mkdir()
    (package / "__init__.py").write_text("a = 1\n")
    for command in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false", *command],
            cwd=folder,
            check=True,
        )
    return package


def test_commit_changes_and_patch(tmp_path, monkeypatch):
    package = _checkout(tmp_path)
    monkeypatch.setattr(provenance, "__file__", str(package / "provenance.py"))
    document, patch = collect(["runner"])
    clean = document["git"]
    assert clean["dirty"] is False and len(clean["sha"]) == 40 and clean["branch"] == "main"
    assert patch == "" and clean["diff"] is None

    monkeypatch.setenv("SOME_TOKEN", SENTINEL)
    (package / "__init__.py").write_text(f"a = 2\nb = {SENTINEL!r}\napi_key = 'another-hidden-word'\n")
    (package / "new.py").write_text("")
    document, patch = collect(["runner"])
    changed = document["git"]
    assert changed["dirty"] is True and changed["diff"] == "diff.patch" and changed["untracked"] == ["package/new.py"]
    assert "-a = 1\n+a = 2\n" in patch
    assert SENTINEL not in patch and "another-hidden-word" not in patch


def test_copy_installed_inside_a_checkout_is_not_that_checkout(tmp_path, monkeypatch):
    _checkout(tmp_path)
    installed = tmp_path / ".venv" / "runner"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("")
    monkeypatch.setattr(provenance, "__file__", str(installed / "provenance.py"))
    document, patch = collect(["runner"])
    assert document["git"] is None and patch == ""


def test_works_without_git(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    assert collect(["runner"])[0]["git"] is None
