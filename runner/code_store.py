"""The snapshots of the code under a run root, and which of them nobody needs any more."""

import shutil
import time
import uuid
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from runner.errors import ConfigError
from runner.files import read_json
from runner.launcher import CODE
from runner.tables import format_age

YOUNG_SECONDS = 86400
"""What was used so lately may be of a submission under way, whose trials do not name it yet."""


@dataclass(frozen=True)
class Stored:
    """One snapshot."""

    home: Path
    used: float
    """Unix seconds of the last submission that took it."""

    size_bytes: int
    trials: int
    """How many name it, now or before a retry with other code."""

    @property
    def is_spare(self) -> bool:
        return self.trials == 0 and time.time() - self.used > YOUNG_SECONDS

    def cells(self) -> list[str]:
        """A row of a table: code, used, MB, trials."""
        return [self.home.name, format_age(time.time() - self.used), f"{self.size_bytes / 1e6:.1f}", str(self.trials)]


def list_snapshots(root: Path) -> list[Stored]:
    """Every snapshot of a run root, the last used first, also what a killed submission has left.

    Raises: ConfigError for a provenance that cannot be read: what it names is unknown.
    """
    folder = root / CODE
    if not folder.is_dir():
        return []
    named = _count_names(root)
    homes = [home for home in folder.iterdir() if home.is_dir()]
    found = [Stored(home, home.stat().st_mtime, _size_of(home), named[home.name]) for home in homes]
    return sorted(found, key=lambda each: (-each.used, each.home.name))


def delete(snapshots: list[Stored]) -> list[Stored]:
    """Delete snapshots, but for those that somebody has taken since they were listed; each is gone at once."""
    spare = [each for each in snapshots if each.home.is_dir() and each.home.stat().st_mtime == each.used]
    for each in spare:
        gone = each.home.with_name(f".{each.home.name.lstrip('.')[:12]}.{uuid.uuid4().hex}")
        each.home.rename(gone)
        shutil.rmtree(gone)
    return spare


def _count_names(root: Path) -> Counter[str]:
    """In how many trials each snapshot is named; a trial may have had several."""
    named: Counter[str] = Counter()
    folders = {path.parent for path in root.glob("*/*/provenance*.json")}
    for folder in folders:
        names = set()
        for path in folder.glob("provenance*.json"):
            try:
                names.add(((read_json(path) or {}).get("snapshot") or {}).get("code"))
            except (ValueError, AttributeError):
                raise ConfigError(f"{path}: cannot be read, so nobody knows what code it needs") from None
        named.update(name for name in names if name)
    return named


def _size_of(home: Path) -> int:
    return sum(path.lstat().st_size for path in home.rglob("*"))
