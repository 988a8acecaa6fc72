"""How the ranks of one launch find each other and agree on the attempt they belong to.

Rank 0 claims the attempt, opens a store on a free port and leaves word in the run folder; the others read it. A port
derived from the job id, as the common recipes have it, collides with other jobs and other programs.
"""

import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from runner.attempt import Attempt, claim
from runner.errors import RunnerError
from runner.files import read_json, write_json
from runner.preemption import Interrupted, Verdict
from runner.rundir import RunDir

MEETING_TIMEOUT_SECONDS = 120
JOIN_TIMEOUT_SECONDS = 5
POLL_SECONDS = 0.05
LOOPBACK = "127.0.0.1"
WORD, GO_ON = "word", "0"


@dataclass(frozen=True)
class Place:
    """Where a process stands in its launch."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    job_id: str = "debug"
    launch: str = "debug"
    """The same for all ranks of one launch, another for the next launch of the same job."""

    address: str = LOOPBACK
    """Host name of rank 0, as the others can reach it."""

    nodes: tuple[str, ...] = ()
    """The node of each rank, as the scheduler calls it; empty where nobody was asked."""

    one_host: bool = True
    """Whether all ranks are on this host; then nothing listens beyond loopback."""

    launched: float | None = None
    """Unix seconds at which this launch began, as far as its scheduler says."""

    supervisor: int | None = None
    """The process of this host that would start the ranks again; they leave when it ends."""


def meet(run: RunDir, place: Place, check: Callable[[], None]) -> tuple[Attempt, Store | None]:
    """The attempt of this launch, and the store its ranks join through (None for one rank).

    All ranks are there when this returns. `check` is called while waiting and raises Interrupted once this rank was
    signalled; then all ranks that have met raise it. Raises: RunnerError that names the ranks that do not come in time.
    """
    deadline = time.monotonic() + MEETING_TIMEOUT_SECONDS
    note = run.launch_note(place.launch)
    if place.rank == 0:
        attempt = claim(run)
        if place.world == 1:
            write_json(note, {"attempt": attempt.number})
            return attempt, None
        store, port = _open_store(place)
        nonce = secrets.token_hex(16)
        prefixed = PrefixStore(nonce, store)
        prefixed.set("attempt", str(attempt.number))
        write_json(note, {"attempt": attempt.number, "host": place.address, "port": port, "nonce": nonce})
        _wait_for_all(prefixed, place, deadline, check)
        # Of this start nobody needs the address any more, and of the next one nobody shall try it.
        write_json(note, {"attempt": attempt.number})
        return attempt, prefixed
    while time.monotonic() < deadline:
        check()
        found = _try_to_join(run, note, place)
        if found is not None:
            _wait_for_all(found[1], place, deadline, check)
            return found
        time.sleep(POLL_SECONDS)
    raise RunnerError(f"rank {place.rank} waited {MEETING_TIMEOUT_SECONDS} s for rank 0 of launch {place.launch}")


def _wait_for_all(store: Store, place: Place, deadline: float, check: Callable[[], None]) -> None:
    """Return once every rank is here: joining the process group cannot be interrupted, and has longer patience.

    Whether the ranks go on or leave is one word in the store, and the first to write it decides for all: a rank that
    left alone, just when the others saw it come, would be waited for in vain.
    """
    store.set(f"rank {place.rank}", "here")
    store.add("here", 1)
    while True:
        wanted = ""
        try:
            check()
            if store.add("here", 0) >= place.world:
                wanted = GO_ON
        except Interrupted as interruption:
            wanted = str(int(interruption.verdict))
        word = (store.compare_set(WORD, "", wanted) if wanted else _read_word(store)).decode()
        if word == GO_ON:
            return
        if word:
            raise Interrupted(Verdict(int(word)))
        if time.monotonic() > deadline:
            missing = [rank for rank in range(place.world) if not store.check([f"rank {rank}"])]
            raise RunnerError(
                f"rank {place.rank} waited {MEETING_TIMEOUT_SECONDS} s for ranks {missing} of launch {place.launch}"
            )
        time.sleep(POLL_SECONDS)


def _read_word(store: Store) -> bytes:
    return store.get(WORD) if store.check([WORD]) else b""


def _open_store(place: Place) -> tuple[TCPStore, int]:
    host = LOOPBACK if place.one_host else ""
    family = socket.AF_INET if place.one_host or not socket.has_ipv6 else socket.AF_INET6
    listener = socket.create_server((host, 0), family=family, dualstack_ipv6=family == socket.AF_INET6)
    port = listener.getsockname()[1]
    store = TCPStore(
        LOOPBACK if place.one_host else place.address,
        port,
        is_master=True,
        wait_for_workers=False,
        timeout=timedelta(seconds=MEETING_TIMEOUT_SECONDS),
        master_listen_fd=listener.detach(),
    )
    return store, port


def _try_to_join(run: RunDir, note: Path, place: Place) -> tuple[Attempt, Store] | None:
    """Join what the note says, None while it is absent or of an earlier start of the same launch."""
    try:
        word = read_json(note)
    except (OSError, ValueError):
        return None
    if word is None or "port" not in word:
        return None
    host = LOOPBACK if place.one_host else word["host"]
    try:
        socket.create_connection((host, word["port"]), timeout=2).close()
        store = TCPStore(
            host,
            word["port"],
            is_master=False,
            wait_for_workers=False,
            timeout=timedelta(seconds=JOIN_TIMEOUT_SECONDS),
        )
        # Somebody else may have got an old note's port since; only rank 0 knows the nonce.
        prefixed = PrefixStore(word["nonce"], store)
        number = int(prefixed.get("attempt"))
    except (OSError, RuntimeError):
        return None
    store.set_timeout(timedelta(seconds=MEETING_TIMEOUT_SECONDS))
    return Attempt(run, number, place.rank), prefixed
