"""Metrics: metrics.jsonl is the truth, W&B a mirror of it that may be slow, absent or dead.

Each (step, key) stands once in the file, steps increase, also after requeues: a new attempt first takes back the rows
its checkpoint does not know of, then writes them again with the same values.
"""

import contextlib
import json
import netrc
import os
import queue
import threading
import time
from typing import Any, Literal
from urllib.parse import urlsplit

from runner.attempt import Attempt
from runner.config import TrackingConfig, WandbConfig
from runner.preemption import signals_blocked
from runner.rundir import RunDir, append_row, read_rows, replacing

CLOSE_TIMEOUT_SECONDS = 10


class Tracker:
    """Rank 0's writer of metrics.jsonl and of its mirror."""

    def __init__(self, attempt: Attempt, config: TrackingConfig, described: dict[str, Any]) -> None:
        self.attempt = attempt
        self.path = attempt.run.metrics
        self.mirror = WandbMirror(attempt.run, config.wandb, described) if config.wandb else None

    def rewind(self, tracked_step: int) -> None:
        """Take back rows after `tracked_step`: they belong to steps that will be done again."""
        rows = read_rows(self.path)
        kept = [row for row in rows if row["step"] <= tracked_step]
        if len(kept) == len(rows):
            return
        with replacing(self.path) as file:
            file.writelines(json.dumps(row, separators=(",", ":")).encode() + b"\n" for row in kept)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        append_row(self.path, {"step": step, "time": time.time(), "attempt": self.attempt.number, **metrics})
        if self.mirror is not None:
            self.mirror.put(step, metrics)

    def last_values(self) -> dict[str, float]:
        """The last value of every metric."""
        return {
            name: value
            for row in read_rows(self.path)
            for name, value in row.items()
            if name not in ("step", "time", "attempt")
        }

    def close(self) -> None:
        """Flush the mirror, within CLOSE_TIMEOUT_SECONDS; call before a requeue, W&B keeps 15 s in memory."""
        if self.mirror is not None:
            self.mirror.close()


class WandbMirror:
    """One W&B run per trial for life, fed by a thread, so that no step waits for it and no failure reaches us."""

    def __init__(self, run: RunDir, config: WandbConfig, described: dict[str, Any]) -> None:
        # In the main thread and before the state is restored: importing draws from the global generators.
        with contextlib.suppress(Exception):
            import wandb  # noqa: F401
        self._rows: queue.SimpleQueue[tuple[int, dict[str, float]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(
            target=self._mirror, args=(run, config, described), name="wandb", daemon=True
        )
        # The thread's children inherit its mask: Slurm's TERM would kill wandb's service and lose its file.
        with signals_blocked():
            self._thread.start()

    def put(self, step: int, metrics: dict[str, float]) -> None:
        self._rows.put((step, metrics))

    def close(self) -> None:
        self._rows.put(None)
        self._thread.join(CLOSE_TIMEOUT_SECONDS)

    def _mirror(self, run: RunDir, config: WandbConfig, described: dict[str, Any]) -> None:
        try:
            import wandb

            mirror = wandb.init(
                id=f"{run.experiment}-{run.trial}",
                resume="allow",
                mode=choose_mode(config.mode),
                dir=str(run.path),
                project=config.project or run.experiment,
                entity=config.entity,
                group=run.experiment,
                name=run.trial,
                tags=list(config.tags),
                config=described,
                settings=wandb.Settings(silent=True, console="off"),
            )
            while (row := self._rows.get()) is not None:
                step, metrics = row
                mirror.log(metrics, step=step)
            mirror.finish()
        except Exception as error:  # telemetry never stops training, whatever it raises
            print(
                f"runner: W&B mirror stopped ({type(error).__name__}: {error}); metrics.jsonl goes on",
                flush=True,
            )


def choose_mode(mode: Literal["auto", "online", "offline"]) -> Literal["online", "offline"]:
    """`auto` is online for somebody who is logged in and offline otherwise."""
    if mode != "auto":
        return mode
    return "online" if is_logged_in() else "offline"


def is_logged_in() -> bool:
    """Whether W&B would find credentials: in the environment, or in the user's netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
