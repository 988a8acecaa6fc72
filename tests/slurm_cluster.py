"""A real Slurm for the tests: one cluster per test run, shared by all workers of pytest-xdist.

    def test_x(slurm):                      # a runner.onebox.Cluster of 8 nodes; SLURM_CONF is set
        job_id = sbatch("-w", slurm.nodes[0], "--wrap", "srun hostname")
        wait_for(lambda: state(job_id), 10, "the job to end", until=lambda found: found == "COMPLETED")

A test that changes the cluster (signals, dead nodes) takes `bare_slurm`, one node without accounts, or starts
one of its own the same way: it costs about a second.
"""

import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from runner import onebox
from runner.slurm import squeue

T = TypeVar("T")
FOLDER = pytest.StashKey[Path]()
POLL_SECONDS = 0.05
GONE_SECONDS = 30
"""For processes to be gone that are to be gone within ten: a busy machine takes its time."""


@pytest.fixture(scope="session")
def slurm(pytestconfig: pytest.Config) -> Iterator[onebox.Cluster]:
    """The cluster of this test run, and the environment that leads to it; conftest.py stops it at the end."""
    skip_without_slurm()
    folder = pytestconfig.stash[FOLDER]
    fresh = not any(folder.iterdir())
    began = time.monotonic()
    cluster = onebox.up(folder, nodes=8)
    if fresh:
        (folder / "cold_start_seconds").write_text(str(time.monotonic() - began))
    with environment_of(cluster):
        yield cluster


@pytest.fixture
def bare_slurm() -> Iterator[onebox.Cluster]:
    """A cluster of one node without accounts, of this test alone."""
    skip_without_slurm()
    with own_cluster(nodes=1, accounting=False) as cluster, environment_of(cluster):
        yield cluster


@pytest.fixture(scope="module", name="slurm")
def slurm_of_this_file() -> Iterator[onebox.Cluster]:
    """In place of the shared one, by importing it: for tests that must not be preempted by those of other files."""
    skip_without_slurm()
    with own_cluster(nodes=4, accounting=False) as cluster, environment_of(cluster):
        yield cluster


def skip_without_slurm() -> None:
    if missing := onebox.missing_tools():
        pytest.skip(f"{missing[0]} not found; get it with: runner onebox install")


@contextmanager
def own_cluster(**settings: int | bool) -> Iterator[onebox.Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="onebox-"))
    try:
        yield onebox.up(folder, **settings)
    finally:
        stop(folder)


@contextmanager
def environment_of(cluster: onebox.Cluster) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in cluster.environment().items():
            patch.setenv(name, value)
        yield


def stop(folder: Path) -> None:
    """End the cluster of a temporary folder, if one was started, and delete the folder."""
    if (folder / "settings.json").exists():
        onebox.down(folder, wipe=True)
    elif folder.exists():
        folder.rmdir()


def wait_for(look: Callable[[], T], timeout_seconds: float, what: str, until: Callable[[T], object] = bool) -> T:
    """Look again and again until `until(look())`; the last look. The one place where tests poll."""
    deadline = time.monotonic() + timeout_seconds
    while not until(last := look()):
        assert time.monotonic() < deadline, f"waited {timeout_seconds} s for {what}; last seen: {last!r}"
        time.sleep(POLL_SECONDS)
    return last


def sbatch(*words: str) -> str:
    """Submit a batch job that prints nowhere unless `words` say so; its id."""
    options = ["--parsable", "--output=/dev/null", "--chdir=/tmp"]
    done = subprocess.run(["sbatch", *options, *words], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def state(job_id: str) -> str:
    """Slurm's word for a job: PENDING, RUNNING, ..."""
    return squeue([job_id])[job_id].state
