"""Ctrl-C in the middle of an import ends the process; anywhere else it is a KeyboardInterrupt.

The verbs import torch and others when they are called. An exception out of nowhere is swallowed by some extension
modules while they load, and leaves others half made, to fail later with errors of their own.
"""

import os
import signal
from types import FrameType


def end_at_once_in_imports() -> None:
    """Install the handler, unless SIGINT is ignored, as in a job that a shell runs in the background."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        frame = frame.f_back
    raise KeyboardInterrupt
