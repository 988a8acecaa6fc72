"""What the GPUs of this machine do for which process; where there are none, nothing is asked and nothing waits."""

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass

from runner.files import read_json
from runner.record import Record
from runner.rundir import RunDir

QUERY_SECONDS = 5.0
TIMEOUT_SECONDS = 10.0
"""A GPU that is stuck keeps nvidia-smi for ever."""

_CSV = "--format=csv,noheader,nounits"


@dataclass(frozen=True)
class Gpu:
    """One GPU as nvidia-smi sees it."""

    load_percent: float | None
    used_gb: float


class GpuMeter:
    """The GPUs of processes of this machine, asked for in the background every QUERY_SECONDS."""

    def __init__(self) -> None:
        self._tool = shutil.which("nvidia-smi")
        self._by_pid: dict[int, list[Gpu]] = {}
        self._asked = 0.0
        self._thread: threading.Thread | None = None

    @property
    def is_there(self) -> bool:
        return self._tool is not None

    def look_up(self, pids: Iterable[int]) -> list[Gpu]:
        """What was last seen of the GPUs that these processes use."""
        self._refresh()
        return [gpu for pid in pids for gpu in self._by_pid.get(pid, [])]

    def _refresh(self) -> None:
        is_busy = self._thread is not None and self._thread.is_alive()
        if self._tool is None or is_busy or time.monotonic() - self._asked < QUERY_SECONDS:
            return
        self._asked = time.monotonic()
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def _ask(self) -> None:
        gpus = self._run("--query-gpu=uuid,utilization.gpu,memory.used")
        self._by_pid = join(gpus, self._run("--query-compute-apps=pid,gpu_uuid"))

    def _run(self, query: str) -> str:
        assert self._tool is not None
        try:
            done = subprocess.run(
                [self._tool, query, _CSV],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_SECONDS,
            )
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return done.stdout if done.returncode == 0 else ""


def join(gpus: str, processes: str) -> dict[int, list[Gpu]]:
    """{process: its GPUs} from two answers of nvidia-smi, "uuid, load, MiB" and "pid, uuid"."""
    by_uuid = {}
    for line in gpus.splitlines():
        uuid, _, rest = line.partition(", ")
        load, _, used = rest.partition(", ")
        by_uuid[uuid] = Gpu(_number(load), (_number(used) or 0.0) / 1024)
    found: dict[int, list[Gpu]] = {}
    for line in processes.splitlines():
        pid, _, uuid = line.partition(", ")
        if pid.isdigit() and uuid in by_uuid:
            found.setdefault(int(pid), []).append(by_uuid[uuid])
    return found


def ranks_here(run: RunDir, record: Record) -> list[int]:
    """The processes of a running trial on this machine."""
    if not record.has_open_attempt:
        return []
    start = record.attempts[-1]
    pids = []
    for rank in range(start.get("world_size") or 0):
        try:
            beat = read_json(run.beat(start["attempt"], rank)) or {}
        except (OSError, ValueError):
            continue
        if beat.get("host") == os.uname().nodename:
            pids.append(int(beat["pid"]))
    return pids


def describe(gpus: list[Gpu]) -> str:
    """`87 % 61 GB`, or `2 x 87 % 122 GB`: the mean load and all memory in use; empty without a GPU."""
    if not gpus:
        return ""
    loads = [gpu.load_percent for gpu in gpus if gpu.load_percent is not None]
    words = [f"{sum(loads) / len(loads):.0f} %"] if loads else []
    count = f"{len(gpus)} x " if len(gpus) > 1 else ""
    return count + " ".join([*words, f"{sum(gpu.used_gb for gpu in gpus):.0f} GB"])


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
