"""RUNNER_REQUIRE turns a test that was left out into one that failed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest

@pytest.mark.slurm
def test_a():
    pytest.skip("no Slurm")

@pytest.mark.ddp
@pytest.mark.skipif(True, reason="no ranks")
def test_b():
    pass

def test_c():
    pytest.skip("no luck")

@pytest.mark.slurm
@pytest.mark.xfail(reason="known")
def test_d():
    assert False

@pytest.mark.slurm
def test_e():
    pass
"""


@pytest.mark.parametrize(
    ("require", "expected"),
    [
        ("", "1 passed, 3 skipped, 1 xfailed"),
        ("gpu,slurm", "1 failed, 1 passed, 2 skipped, 1 xfailed"),
        ("all", "2 failed, 1 passed, 1 xfailed, 1 error"),
    ],
)
def test_required_tests_are_not_left_out(require, expected, tmp_path):
    (tmp_path / "test_these.py").write_text(TESTS)
    repository = Path(__file__).parents[1]
    words = [sys.executable, "-m", "pytest", "-n", "0", "-p", "tests.conftest", "-c", repository / "pyproject.toml"]
    done = subprocess.run(
        [*words, "-p", "no:cacheprovider", "--rootdir", tmp_path, tmp_path / "test_these.py"],
        cwd=repository,
        env=os.environ | {"RUNNER_REQUIRE": require},
        capture_output=True,
        text=True,
    )
    assert expected in done.stdout.splitlines()[-1], done.stdout
    assert ("but: Skipped: no Slurm" in done.stdout) == bool(require)
