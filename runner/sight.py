"""What can be seen of a run from outside, by its metrics alone."""

import json
import os
from contextlib import suppress
from dataclasses import dataclass, field

from runner.rundir import RunDir


@dataclass
class Sight:
    """Every row of metrics.jsonl that was ever there; a new attempt takes back those of steps it does again."""

    run: RunDir
    steps: dict[int, dict[int, float]] = field(default_factory=dict)
    """Attempt -> step -> unix seconds."""

    _read: tuple[int, int] = (0, 0)
    """Which file was read, and how many bytes of it."""

    def look(self) -> None:
        try:
            with self.run.metrics.open("rb") as file:
                found = os.fstat(file.fileno())
                inode, offset = self._read
                offset = offset if inode == found.st_ino and offset <= found.st_size else 0
                file.seek(offset)
                data = file.read()
        except FileNotFoundError:
            return
        whole = data[: data.rfind(b"\n") + 1]
        self._read = (found.st_ino, offset + len(whole))
        for line in whole.splitlines():
            with suppress(ValueError, KeyError):
                row = json.loads(line)
                self.steps.setdefault(row["attempt"], {}).setdefault(row["step"], row["time"])

    @property
    def newest(self) -> tuple[int, int]:
        """The newest attempt that has done a step, and its last step."""
        attempt = max(self.steps, default=0)
        return attempt, max(self.steps.get(attempt, ()), default=0)
