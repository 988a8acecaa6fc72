"""What run folders record, read again and again: only what has changed since is read."""

import os
import time
from typing import NamedTuple

from runner.record import Record, read_record
from runner.rundir import RunDir

SETTLING_SECONDS = 2.0
"""A file may change twice within one tick of its clock, so what changed so lately is read once more."""

_APPENDED = ("", "/attempts.jsonl", "/jobs.jsonl", "/metrics.jsonl", "/checkpoints")
"""What changes in its place; whatever is renamed into the folder changes the folder itself."""

Signature = tuple[tuple[int, int, int], ...]


class _Known(NamedTuple):
    signature: Signature
    record: Record


class RecordCache:
    """`read_record` for those who ask again."""

    def __init__(self) -> None:
        self._known: dict[RunDir, _Known] = {}
        self.reads = 0
        """How often a folder was read so far."""

    def __call__(self, run: RunDir) -> Record:
        """What the run folder says now."""
        known = self._known.get(run)
        if known is not None and known.signature == _sign(run, len(known.signature)):
            return known.record
        signature, now = _sign(run, len(_APPENDED)), time.time()
        record = read_record(run)
        self.reads += 1
        newest = max(changed for changed, _, _ in signature) / 1e9
        if record.result is not None:
            # Nothing is appended any more, as it may be after the file of a failure or a cancellation.
            signature = signature[:1]
        if newest < now - SETTLING_SECONDS:
            self._known[run] = _Known(signature, record)
        else:
            self._known.pop(run, None)
        return record


def _sign(run: RunDir, count: int) -> Signature:
    """When the first `count` of the things that change changed last, and their sizes and inodes."""
    folder, found = str(run.path), []
    for name in _APPENDED[:count]:
        try:
            status = os.stat(folder + name)
            found.append((status.st_mtime_ns, status.st_size, status.st_ino))
        except OSError:
            found.append((0, 0, 0))
    return tuple(found)
