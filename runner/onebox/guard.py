"""The guard of a private cluster: a process of its own that ends the cluster when whoever started it was killed."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from runner import onebox
from runner.errors import SubmissionError


def start_guard(folder: Path) -> "subprocess.Popen[bytes]":
    """Start the guard of the cluster in `folder`; it acts once its stdin is closed, as the kernel does for the dead."""
    return subprocess.Popen(
        [sys.executable, "-m", "runner.onebox.guard", str(folder)],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )


def main(folder: Path) -> None:
    """Wait for the end of stdin, then end what is left of the cluster."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    os.read(0, 1)
    try:
        onebox.down(folder, wipe=True)
    except SubmissionError:
        # Ended already, or not begun.
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
