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
from runner.onebox.guard import start_guard

AMBIENT = ("SLURM_", "SLURMD_", "SBATCH_", "SRUN_", "SALLOC_", "SQUEUE_", "SCANCEL_", "SACCT_")
"""Variables by which another Slurm, such as that of the job we may run in, would change what ours does."""


@contextmanager
def private_cluster(**settings: Any) -> Iterator[Cluster]:
    """Start a cluster in a temporary folder and point this process's environment at it; end both, come what may.

    Ctrl-C, SIGTERM and SIGHUP end the work inside by a KeyboardInterrupt, in imports too; the way down is not
    interrupted again. A kill -9 of this process ends both through a guard.
    """
    folder = Path(tempfile.mkdtemp(prefix="onebox-"))
    guard = start_guard(folder)
    try:
        with _handling(signal.default_int_handler):
            cluster = onebox.up(folder, **settings)
            with _environment_of(cluster):
                yield cluster
    finally:
        with _handling(signal.SIG_IGN):
            if (folder / "settings.json").exists():
                onebox.down(folder, wipe=True)
            else:
                shutil.rmtree(folder)
            guard.communicate()


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
def _handling(handler: Any) -> Iterator[None]:
    """Answer the signals by which a terminal or a supervisor ends us in another way, but for those ignored already."""
    before: dict[signal.Signals, Any] = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(each) is not signal.SIG_IGN:
                    before[each] = signal.signal(each, handler)
        yield
    finally:
        for each, previous in before.items():
            signal.signal(each, previous)
