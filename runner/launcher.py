"""Start python with USR2 and TERM blocked, so that a preemption during start-up waits instead of killing.

From the launch of a task until a trainer has installed its handlers (seconds: python, torch, unpickling), both
signals would have their default action: the job dies and Slurm does not requeue it. A blocked mask survives exec and
the signal stays pending; `preemption.watching` unblocks it once somebody listens. Runs as `python -S -E launcher.py
ARGS...` and must import nothing of the package: its own start is the window that remains open.
"""

import os
import signal
import sys

if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2, signal.SIGTERM})
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
