"""Markers, the shared Slurm, and RUNNER_REQUIRE.

RUNNER_REQUIRE=slurm,ddp makes a skipped test with one of these markers a failure, RUNNER_REQUIRE=all any
skipped test: a machine that is there to run them must not pass by leaving them out.
"""

import os
import signal
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.slurm_cluster import FOLDER, bare_slurm, slurm, stop
from tests.slurm_trials import profile, uninterrupted

# How long an example takes says more about the machine than about the code.
slow = [hypothesis.HealthCheck.too_slow]
hypothesis.settings.register_profile("suite", deadline=None, suppress_health_check=slow)
hypothesis.settings.load_profile("suite")

__all__ = ["bare_slurm", "profile", "slurm", "uninterrupted"]


@pytest.fixture
def memory_path(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where the machine has one: for thousands of writes that are not about the disk."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory, prefix="runner-test-") as folder:
        yield Path(folder)


@pytest.fixture
def no_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without a W&B login, whose W&B files are in the test's folder."""
    for name in [name for name in os.environ if name.startswith("WANDB_")] + ["NETRC"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()


def pytest_configure(config: pytest.Config) -> None:
    """One folder for the Slurm of the whole run; the workers of pytest-xdist are told which.

    Whoever starts the tests in the background has Ctrl-C ignored, which everything that they start would inherit.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    told = getattr(config, "workerinput", {}).get("onebox")
    config.stash[FOLDER] = Path(told or tempfile.mkdtemp(prefix="onebox-"))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput["onebox"] = str(node.config.stash[FOLDER])


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        stop(config.stash[FOLDER])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever uses a Slurm has the marker, so that `-m "not slurm"` needs no care.

    The longest files, which mostly wait for Slurm, come first: two workers take them, the third takes the rest.
    """
    items.sort(key=lambda item: not item.path.name.startswith("test_slurm_"))
    for item in items:
        if {"slurm", "bare_slurm"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slurm)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    required = set(os.environ.get("RUNNER_REQUIRE", "").split(","))
    wanted = "all" in required or any(mark.name in required for mark in item.iter_markers())
    if report.skipped and wanted and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"RUNNER_REQUIRE={os.environ['RUNNER_REQUIRE']}, but: {reason}"
    return report
