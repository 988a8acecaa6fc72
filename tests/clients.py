"""Clients in processes of their own, which can be killed: forks of this one, so that torch is imported once."""

import os
import sys
import traceback
from collections.abc import Callable


def in_child(work: Callable[[], int | None]) -> int:
    """The exit code of a process that does this and no more; -N if signal N ended it."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            code = work() or 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
