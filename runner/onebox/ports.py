"""Ports on which a one-machine Slurm may listen."""

import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from runner.errors import SubmissionError

PORTS = range(10000, 20000)
"""Below the ports the kernel hands out (32768 on) and those of submitit's MASTER_PORT (20000 to 60000)."""


@contextmanager
def claimed_ports(count: int, preferred: int | None = None) -> Iterator[int]:
    """The first of `count` ports in a row that nobody listens on, and that no other onebox starts on meanwhile.

    Seconds pass before the daemons listen. Until then each port is claimed by an abstract unix socket of its
    number: like the port it belongs to the machine, and it goes with whoever holds it.
    """
    # Not the generator that experiments seed: two that did would draw the same ports, and a draw would move it.
    drawn = random.SystemRandom().sample(range(PORTS.start, PORTS.stop - count), 100)
    for first in [preferred, *drawn] if preferred else drawn:
        with ExitStack() as claims:
            if all(_claim(port, claims) and _is_free(port) for port in range(first, first + count)):
                yield first
                return
    raise SubmissionError(f"no {count} free ports in a row between {PORTS.start} and {PORTS.stop}")


def _claim(port: int, claims: ExitStack) -> bool:
    claim = claims.enter_context(socket.socket(socket.AF_UNIX))
    with suppress(OSError):
        claim.bind(f"\0runner-onebox-{port}")
        return True
    return False


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return True
    return False
