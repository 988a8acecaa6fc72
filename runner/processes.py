"""Processes that end when they should: with their parent, and when they are told to.

A process that is stopped (SIGSTOP) or whose parent was killed answers to nobody; what it holds, memory and a GPU above
all, is lost to the machine. So children ask the kernel to end them with their parent, and who ends processes by a
signal wakes them first and kills what is left.
"""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import connection
from typing import TextIO

import psutil

EXIT_TERMINATED = 143
EXIT_TRY_AGAIN = 75
"""sysexits' EX_TEMPFAIL: nothing is wrong with what was run."""

PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """Have the kernel kill this process when the thread that started it ends; at once if `parent` has ended already.

    The thread, not the process: call it only in children that the main thread of `parent` started.
    """
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def die_with_starter() -> None:
    """Kill this process once the one that multiprocessing started it for has ended, whatever ended that.

    Under a fork server the kernel's parent is the server, so a thread watches the pipe that the starter holds open.
    """
    starter = multiprocessing.parent_process()
    assert starter is not None, "started by multiprocessing"

    def watch() -> None:
        connection.wait([starter.sentinel])
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="starter", daemon=True).start()


def log(line: str, stream: TextIO | None = None) -> None:
    """A line in the log of this process; a disk that is full or away keeps nobody from going on."""
    with contextlib.suppress(OSError):
        print(f"runner: {line}", file=stream, flush=True)


def age_seconds(process: psutil.Process) -> float:
    """How long a process has existed; psutil's moment alone is up to a second off, as the kernel's time of boot is."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - (process.create_time() - psutil.boot_time())


def is_alive(pid: int | None, created: float | None) -> bool:
    """Whether process `pid` exists and is the one that was created then; process numbers are used again."""
    if pid is None:
        return False
    try:
        process = psutil.Process(pid)
        same = created is None or abs(process.create_time() - created) < 1
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextlib.contextmanager
def looking(look: Callable[[threading.Event], None], name: str) -> Iterator[None]:
    """Have a thread look after something while the block runs; `look` is given the event that ends it."""
    over = threading.Event()
    thread = threading.Thread(target=look, args=(over,), name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def tell_to_end(processes: Iterable[psutil.Process]) -> None:
    """Send TERM, and CONT so that a stopped process hears it."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGCONT)


def end(processes: Iterable[psutil.Process], patience_seconds: float) -> None:
    """Tell processes to end, and kill those still there after so many seconds, with all that they started."""
    asked = list(processes)
    tell_to_end(asked)
    kill(psutil.wait_procs(asked, patience_seconds)[1])


def kill(processes: Iterable[psutil.Process]) -> None:
    """SIGKILL to processes and all that they started."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            for each in [*process.children(recursive=True), process]:
                with contextlib.suppress(psutil.Error):
                    each.kill()


def is_running(pid: int) -> bool:
    """Whether a process of this host still does anything; a zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


class Stragglers:
    """The members of a group of which some have ended: they could only wait for those, so they are ended, too.

    `look` is given the members that live, again and again. Where the first ended well there is no hurry: on a busy
    machine it takes its time to take torch down.
    """

    def __init__(self, patience_seconds: float, kill_seconds: float, calm_seconds: float = 60) -> None:
        self.patience_seconds, self.kill_seconds, self.calm_seconds = patience_seconds, kill_seconds, calm_seconds
        self._members: set[psutil.Process] = set()
        self._since: float | None = None
        self._told = False

    def look(
        self, living: Iterable[psutil.Process], ended_well: Callable[[], bool], is_short: bool | None = None
    ) -> None:
        """`is_short` says whether members are missing, where that is known; else those seen before count."""
        living = set(living)
        left = living if is_short else living & self._members
        if not left or not (left != self._members if is_short is None else is_short):
            self._members, self._since, self._told = living, None, False
            return
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        patience = self.calm_seconds if ended_well() else self.patience_seconds
        if now - self._since >= patience and not self._told:
            tell_to_end(left)
            self._told = True
        if now - self._since >= patience + self.kill_seconds:
            kill(left)
