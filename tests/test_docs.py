"""Every command, file and piece of code of docs/ is run as it stands there."""

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from runner.cli import run
from runner.profile import load_profile
from tests.slurm_cluster import skip_without_slurm

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
TRAINING = ("fault_tolerance", "migration", "sweeps")
"""Pages whose commands train for minutes."""

PLAIN = re.compile(r"runner [^|<>$`;&]*")
"""A command that needs no shell."""

DETACHED = ("submit", "apply", "retry")
"""Verbs that leave a process of their own behind."""


@dataclass(frozen=True)
class Block:
    language: str
    """`sh`, or `sh slurm` where a Slurm must be installed; `yaml file=NAME`, `yaml profile`; `python`."""

    text: str


def blocks(page: Path) -> list[Block]:
    found = re.findall(r"^```([^\n`]+)\n(.*?)^```$", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return [Block(language, text) for language, text in found]


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """What a user stands in: a folder with the experiments and profiles of the project, and an empty run root."""
    (tmp_path / "experiments").mkdir()
    for path in (ROOT / "experiments").iterdir():
        (tmp_path / "experiments" / path.name).symlink_to(path)
    (tmp_path / "slurm").symlink_to(ROOT / "slurm")
    shim = tmp_path / "bin" / "runner"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec {sys.executable} -m runner "$@"\n')
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", f"{shim.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("RUNNER_ONEBOX", str(tmp_path / "onebox"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def execute(line: str) -> int:
    command, _, comment = line.partition(" #")
    expected = re.search(r"exits with (\d+)", comment)
    words = shlex.split(command)
    if PLAIN.fullmatch(command) and words[1] not in DETACHED:
        code = run(words[1:])
    else:
        code = subprocess.run(["bash", "-c", command], timeout=120).returncode
    assert code == (int(expected[1]) if expected else 0), line
    return code


def walk(page: Path, languages: tuple[str, ...]) -> int:
    """Do what a page says from top to bottom; how many commands there were."""
    done = 0
    for block in blocks(page):
        kind, _, rest = block.language.partition(" ")
        if rest.startswith("file="):
            Path(rest.removeprefix("file=")).write_text(block.text)
        elif block.language in languages and kind == "python":
            exec(compile(block.text, str(page), "exec"), {})
            done += 1
        elif block.language in languages:
            for line in block.text.splitlines():
                done += bool(line.strip()) and execute(line) is not None
    return done


@pytest.mark.slow
@pytest.mark.ddp
@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[pytest.mark.nightly] * (page.stem in TRAINING), id=page.stem) for page in PAGES],
)
def test_the_commands_of_a_page(page, clone):
    assert walk(page, ("sh", "python"))


@pytest.mark.nightly
@pytest.mark.slurm
@pytest.mark.parametrize(
    "page", [page for page in PAGES if "```sh slurm" in page.read_text()], ids=lambda page: page.stem
)
def test_the_commands_of_a_page_that_want_a_slurm(page, clone):
    skip_without_slurm()
    assert walk(page, ("sh slurm",)) >= 1


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_profiles_of_a_page(page, tmp_path):
    for number, block in enumerate(block for block in blocks(page) if block.language == "yaml profile"):
        path = tmp_path / f"{number}.yaml"
        path.write_text(block.text)
        assert load_profile(str(path)).cluster in ("slurm", "local")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_links_to_is_there(page):
    for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target
    assert {block.language.partition(" ")[0] for block in blocks(page)} <= {"sh", "yaml", "python", "toml"}
