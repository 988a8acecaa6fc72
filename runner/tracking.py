"""Metrics: metrics.jsonl is the truth; W&B and others mirror it, and may be slow, absent or dead.

Each (step, key) stands once in the file, steps increase, also after requeues: a new attempt first takes back the rows
its checkpoint does not know of, then writes them again with the same values.
"""

import json
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any

import psutil

from runner.attempt import Attempt
from runner.config import TrackingConfig
from runner.files import append_row, read_rows, replacing, sync_path
from runner.preemption import signals_blocked
from runner.processes import kill

CLOSE_TIMEOUT_SECONDS = 10


class Tracker:
    """Rank 0's writer of metrics.jsonl, and keeper of the processes that mirror it."""

    def __init__(self, attempt: Attempt, config: TrackingConfig) -> None:
        self.attempt = attempt
        self.path = attempt.run.metrics
        self._is_known = False
        """The name of the file is on disk."""

        self._names = list(config.mirrors)
        self._mirrors: dict[str, subprocess.Popen[bytes]] = {}

    def begin(self, tracked_step: int) -> None:
        """Take back rows after `tracked_step`, which belong to steps that will be done again; start the mirrors.

        What is no row, such as one torn by a kill, goes too; that rows are missing is told.
        """
        self.attempt.check_fence()
        rows = [row for row in read_rows(self.path) if isinstance(row.get("step"), int)]
        kept = [row for row in rows if row["step"] <= tracked_step]
        self._note_lost([row for row in rows if row["step"] > tracked_step])
        content = b"".join(json.dumps(row, separators=(",", ":")).encode() + b"\n" for row in kept)
        # Another file, even with the same rows: an earlier attempt in the middle of a write has the old one open.
        is_shared = self.attempt.number > 1
        if self.path.exists() and (is_shared or self.path.read_bytes() != content):
            with replacing(self.path) as file:
                file.write(content)
        last = max((row["step"] for row in kept), default=-1)
        if last < tracked_step:
            told = f"ends at step {last}" if kept else "has no rows"
            print(f"runner: {self.path.name} {told}, though there were rows up to step {tracked_step}", flush=True)
        self._mirrors = {name: start_mirror(name, self.attempt) for name in self._names}

    def _note_lost(self, rows: list[dict[str, Any]]) -> None:
        """A row that is taken back may be the last word of an attempt that was killed: how far it had got, and when."""
        if rows and isinstance(number := rows[-1].get("attempt"), int):
            with suppress(OSError):
                last = {"step": rows[-1]["step"], "time": rows[-1].get("time")}
                append_row(self.attempt.run.readings(number), last, sync=False)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Add a row; raises SupersededError when a newer attempt has begun, whose rows these would get between."""
        row = {"step": step, "time": time.time(), "attempt": self.attempt.number, **metrics}
        append_row(self.path, row, sync=False, check=self.attempt.check_fence)

    def sync(self) -> None:
        """Put the rows on disk; a checkpoint that knows of a row must not survive a power loss that it does not."""
        if self.path.exists():
            sync_path(self.path)
            if not self._is_known:
                sync_path(self.path.parent)
                self._is_known = True

    def last_values(self) -> dict[str, float]:
        """The last value of every metric."""
        return {
            name: value
            for row in read_rows(self.path)
            for name, value in row.items()
            if name not in ("step", "time", "attempt")
        }

    def close(self) -> None:
        """Let the mirrors catch up, within CLOSE_TIMEOUT_SECONDS; call before a requeue, W&B keeps 15 s in memory."""
        stop_mirrors(self._mirrors, CLOSE_TIMEOUT_SECONDS)
        self._mirrors = {}


def start_mirror(name: str, attempt: Attempt) -> "subprocess.Popen[bytes]":
    """Start the process of runner.mirror; it goes on until its stdin is closed."""
    command = [sys.executable, "-m", "runner.mirror", name, str(attempt.run.path), str(attempt.number)]
    # A session of its own: Ctrl-C is ours to answer. Blocked signals: so is Slurm's TERM, which every process gets.
    with signals_blocked():
        return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)


def stop_mirrors(mirrors: "dict[str, subprocess.Popen[bytes]]", timeout_seconds: float) -> None:
    """Close the mirrors' stdin and wait for them; kill those with their children that take longer, all together."""
    deadline = time.monotonic() + timeout_seconds
    for mirror in mirrors.values():
        assert mirror.stdin is not None
        mirror.stdin.close()
    for name, mirror in mirrors.items():
        try:
            mirror.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            words = f"did not end within {timeout_seconds} s; metrics.jsonl has everything"
            print(f"runner: mirror {name} {words}", flush=True)
            kill([psutil.Process(mirror.pid)])
            mirror.wait()
