"""One attempt at a trial: its token, who it descends from, and its rows in attempts.jsonl.

An attempt is made by creating the next numbered folder under tokens/: mkdir is atomic on shared file systems, so two
launches of one trial never hold the same number, and the highest number is the only one that may write.
"""

import os
import re
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from runner.errors import RunnerError
from runner.files import append_row, read_json, sync_path, write_json
from runner.ledger import Reading
from runner.masking import format_error, mask_text
from runner.rundir import RunDir

PACKAGE = Path(__file__).parent


class SupersededError(RunnerError):
    """A newer attempt at this trial has started; this one must not write any more."""


@dataclass(frozen=True)
class Attempt:
    """The attempt this process belongs to."""

    run: RunDir
    number: int
    rank: int = 0

    @property
    def name(self) -> str:
        return f"{self.number:05d}"

    def check_fence(self) -> None:
        """Raise SupersededError when a newer attempt exists."""
        newest = newest_token(self.run)
        if newest > self.number:
            raise SupersededError(f"attempt {self.number} of {self.run.trial} was superseded by attempt {newest}")

    def record_start(
        self,
        *,
        job_id: str,
        launch: str,
        world: int,
        step: int,
        steps: int,
        resumed_from: str | None,
        exact: str | None = None,
        code: str | None = None,
        nodes: tuple[str, ...] = (),
        reading: Reading | None = None,
    ) -> None:
        write_json(self.run.token(self.number) / "parent.json", {"resumed_from": resumed_from})
        self._append(
            "start",
            job_id=job_id,
            launch=launch,
            host=os.uname().nodename,
            pid=os.getpid(),
            pid_created=psutil.Process().create_time(),
            nodes=list(nodes),
            world_size=world,
            start_step=step,
            steps=steps,
            resumed_from=resumed_from,
            exact=exact,
            code=code,
            **_account(reading),
        )

    def record_end(
        self,
        *,
        step: int,
        cause: str,
        requeue: bool,
        signal_to_saved_seconds: float | None,
        reading: Reading | None = None,
    ) -> None:
        self._append(
            "end",
            end_step=step,
            cause=cause,
            requeue=requeue,
            signal_to_saved_seconds=signal_to_saved_seconds,
            **_account(reading),
        )

    def record_reading(self, reading: Reading) -> None:
        """Note where the time has gone until now; a disk that is full or away changes nothing."""
        with suppress(OSError):
            append_row(self.run.readings(self.number), reading.as_row(), sync=False)

    def record_saved(self, step: int) -> None:
        """Leave word of a checkpoint outside its folder, which may be lost as a whole."""
        write_json(self.run.saved(self.number), {"step": step})

    def record_crash(self, error: BaseException, cause: str, step: int | None) -> None:
        """Leave word of why this rank dies, for the decision whether the trial goes on; its first word counts."""
        place = self.run.crash(self.number, self.rank)
        if place.exists():
            return
        text = self.run.token(self.number) / f"traceback.rank_{self.rank}.txt"
        text.write_text(format_error(error))
        lines = mask_text(f"{type(error).__name__}: {error}").splitlines()
        write_json(
            place,
            {
                "cause": cause,
                "error": lines[0][:500],
                "rank": self.rank,
                "step": step,
                "signature": describe_place(error),
                "traceback": str(text),
                "time": time.time(),
            },
        )

    def _append(self, event: str, **fields: Any) -> None:
        append_row(self.run.attempts, {"event": event, "attempt": self.number, "time": time.time(), **fields})


def _account(reading: Reading | None) -> dict[str, Any]:
    return {} if reading is None else {"seconds": reading.rounded()}


def describe_place(error: BaseException) -> str:
    """The error's type and the innermost function of this package that it came through: "OSError in data/x.py:read"."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if PACKAGE in Path(frame.filename).parents]
    if not frames:
        return type(error).__name__
    frame = (own or frames)[-1]
    file = Path(frame.filename)
    name = file.relative_to(PACKAGE) if own else file.name
    return f"{type(error).__name__} in {name}:{frame.name}"


def claim(run: RunDir) -> Attempt:
    """Make the next attempt; of several processes claiming at once each gets its own number."""
    tokens = run.path / "tokens"
    if not tokens.is_dir():
        tokens.mkdir(parents=True, exist_ok=True)
        sync_path(run.path)
    number = max(newest_token(run), _newest_elsewhere(run)) + 1
    while True:
        try:
            run.token(number).mkdir()
            # A power loss that takes this name back would have the number, and so its checkpoints, come twice.
            sync_path(tokens)
            return Attempt(run, number)
        except FileExistsError:
            number += 1


def _newest_elsewhere(run: RunDir) -> int:
    """The highest attempt that rows or checkpoints tell of: a number is not used again if its folder is gone."""
    rows = [row["attempt"] for row in run.attempt_rows() if isinstance(row.get("attempt"), int)]
    names = [path.name.rpartition(".")[2] for path in run.checkpoints.glob("step_*")]
    return max([*rows, *(int(name) for name in names if name.isdigit())], default=0)


def newest_token(run: RunDir) -> int:
    """The highest attempt number so far, 0 when there is none."""
    try:
        names = os.listdir(run.path / "tokens")
    except FileNotFoundError:
        return 0
    return max((int(name) for name in names if re.fullmatch(r"\d{5,}", name)), default=0)


def read_parents(run: RunDir) -> dict[int, str | None]:
    """For each attempt that got as far as restoring: the checkpoint it resumed from, None for a fresh start."""
    parents: dict[int, str | None] = {}
    for number in range(1, newest_token(run) + 1):
        record = read_json(run.token(number) / "parent.json")
        if record is not None:
            parents[number] = record["resumed_from"]
    return parents
