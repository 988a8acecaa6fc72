"""The high-water mark of this process's memory, as the kernel counts it."""

import re
from pathlib import Path

RESET = Path("/proc/self/clear_refs")
"""Only Linux has it."""


def reset_peak() -> int:
    """Forget the high-water mark; the bytes in use now."""
    RESET.write_text("5")
    return peak_bytes()


def peak_bytes() -> int:
    """The most bytes this process held since `reset_peak`."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024
