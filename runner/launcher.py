"""Start python with USR2 and TERM blocked, so that a preemption during start-up waits instead of killing.

From the launch of a task until a trainer has installed its handlers (seconds: python, torch, unpickling), both
signals would have their default action: the job dies and Slurm does not requeue it. A blocked mask survives exec and
the signal stays pending; `preemption.watching` unblocks it once somebody listens. Runs as `python -S -E launcher.py
ARGS...` and must import nothing of the package: its own start is the window that remains open.

With `--in` before them, ARGS are the whole command instead: a container that starts python in turn, and that the mask
outlasts as well.

The last argument is submitit's folder, ROOT/<experiment>/.submissions/<submission>/jobs. The job file in it is a
pickle, which runs whatever it holds, so nobody else may be able to put one there.

A launcher in a snapshot of the code (ROOT/.code/<digest>/runner, see runner.code_snapshot) starts that code.
"""

import os
import signal
import stat
import sys

EXIT_REFUSED = 2
EXIT_NOT_STARTED = 127
INSIDE = "--in"
"""First of the arguments when the command is not this python's."""

CODE = ".code"
"""Folder of a run root with the snapshots of the code."""


def find_intruder(folder: str, top: str) -> str:
    """Who else could change what is in a folder, in words: by itself, or by one of its parents up to `top`.

    Empty when nobody can. A `top` such as /tmp is fine, where all may write but only owners may rename.
    """
    while True:
        try:
            facts = os.stat(folder) if folder == top else os.lstat(folder)
        except (FileNotFoundError, NotADirectoryError):
            facts = None
        if facts is not None:
            if stat.S_ISLNK(facts.st_mode):
                return f"{folder}: is a link; jobs are kept in folders of their own"
            if facts.st_uid != os.geteuid() and not (folder == top and facts.st_uid == 0):
                return f"{folder}: belongs to user {facts.st_uid}, not to you; jobs are kept in folders of your own"
            if facts.st_mode & 0o022 and not (folder == top and facts.st_mode & stat.S_ISVTX):
                mode = f"{stat.S_IMODE(facts.st_mode):04o}"
                return f"{folder}: has mode {mode}, so others could change your jobs; chmod go-w it"
        if folder in (top, os.path.dirname(folder)):
            return ""
        folder = os.path.dirname(folder)


def leading(home: str, before: str | None) -> dict[str, str]:
    """Variables of a process, and of all its children, that is to find packages in `home` before anywhere else.

    `before` is PYTHONPATH so far. Without PYTHONSAFEPATH the folder a job starts in, often a checkout, would be first.
    """
    return {"PYTHONPATH": f"{home}{os.pathsep}{before}" if before else home, "PYTHONSAFEPATH": "1"}


def own_snapshot() -> str | None:
    """The folder of the snapshot that this package is; None for a checkout or an installed package."""
    home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return home if os.path.basename(os.path.dirname(home)) == CODE else None


def _root_of(folder: str) -> str:
    for _ in range(4):
        folder = os.path.dirname(folder)
    return folder


def main() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2, signal.SIGTERM})
    problem, home = find_intruder(sys.argv[-1], _root_of(sys.argv[-1])), own_snapshot()
    if home is not None:
        problem = problem or find_intruder(os.path.join(home, "runner"), os.path.dirname(os.path.dirname(home)))
        os.environ.update(leading(home, os.environ.get("PYTHONPATH")))
    if problem:
        print(f"runner: {problem}", file=sys.stderr)
        sys.exit(EXIT_REFUSED)
    command = sys.argv[2:] if sys.argv[1] == INSIDE else [sys.executable, *sys.argv[1:]]
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"runner: {command[0]}: cannot be started: {error.strerror}", file=sys.stderr)
        sys.exit(EXIT_NOT_STARTED)


if __name__ == "__main__":
    main()
