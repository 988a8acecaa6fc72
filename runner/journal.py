"""What a rank's state is after every step, as digests, to find where two runs part.

A fingerprint says that two runs ended differently; two journals say which tensor differed first, on which rank, since
which step.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from runner.files import append_row, read_rows
from runner.state import TrainState

Digests = Mapping[int, Mapping[str, str]]
"""Step -> name of a piece of the state -> its digest."""


class Journal:
    """One rank's writer."""

    def __init__(self, folder: Path, rank: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = _path(folder, rank)

    def write(self, state: TrainState) -> None:
        append_row(self.path, {"step": state.step, "digests": state.digests()}, sync=False)


def read_journal(folder: Path, rank: int) -> Digests:
    """What stands there last for every step: what an attempt did after its last checkpoint, the next does again."""
    return {row["step"]: row["digests"] for row in read_rows(_path(folder, rank)) if "digests" in row}


@dataclass(frozen=True)
class Difference:
    """Where two runs part."""

    rank: int
    step: int
    name: str
    """The first piece of the state that differs there, in the order of the fingerprint."""

    others: int
    """How many more differ at that step."""

    def __str__(self) -> str:
        more = f" and {self.others} more" if self.others else ""
        return f"{self.name}{more} of rank {self.rank}, since step {self.step}"


def compare(reference: list[Digests], other: list[Digests]) -> Difference | None:
    """The first difference between the journals of two runs, one a rank; None when there is none.

    A step that only one of them has counts as a difference.
    """
    assert len(reference) == len(other)
    for step in sorted({step for journal in (*reference, *other) for step in journal}):
        for rank, (expected, found) in enumerate(zip(reference, other, strict=True)):
            left, right = expected.get(step, {}), found.get(step, {})
            names = [name for name in {**left, **right} if left.get(name) != right.get(name)]
            if names:
                return Difference(rank, step, names[0], len(names) - 1)
    return None


def _path(folder: Path, rank: int) -> Path:
    return folder / f"rank_{rank}.jsonl"
