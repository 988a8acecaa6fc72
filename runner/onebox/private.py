"""A cluster for the length of one piece of work: nothing of it is there before or afterwards."""

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runner import onebox
from runner.onebox.cluster import Cluster

AMBIENT = ("SLURM_", "SLURMD_", "SBATCH_", "SRUN_", "SALLOC_", "SQUEUE_", "SCANCEL_", "SACCT_")
"""Variables by which another Slurm, such as that of the job we may run in, would change what ours does."""


@contextmanager
def private_cluster(**settings: Any) -> Iterator[Cluster]:
    """Start a cluster in a temporary folder and point this process's environment at it; end both, come what may.

    Ctrl-C, SIGTERM and SIGHUP end the work inside by a KeyboardInterrupt; the way down is not interrupted again.
    """
    folder = Path(tempfile.mkdtemp(prefix="onebox-"))
    try:
        with _ended_by_signals():
            cluster = onebox.up(folder, **settings)
            with _environment_of(cluster):
                yield cluster
    finally:
        with _undisturbed():
            if (folder / "settings.json").exists():
                onebox.down(folder, wipe=True)
            else:
                shutil.rmtree(folder)


@contextmanager
def _environment_of(cluster: Cluster) -> Iterator[None]:
    before = dict(os.environ)
    for name in before:
        if name.startswith(AMBIENT):
            del os.environ[name]
    os.environ.update(cluster.environment())
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    with _handling(signal.default_int_handler, signal.SIGTERM, signal.SIGHUP):
        yield


@contextmanager
def _undisturbed() -> Iterator[None]:
    with _handling(signal.SIG_IGN, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        yield


@contextmanager
def _handling(handler: Any, *signals: signal.Signals) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {each: signal.signal(each, handler) for each in signals}
    try:
        yield
    finally:
        for each, previous in before.items():
            signal.signal(each, previous)
