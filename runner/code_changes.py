"""What sets two versions of the code apart, file by file."""

import difflib
from dataclasses import dataclass

NAMED_FILES = 5
"""In a summary; of more there is only the number."""


@dataclass(frozen=True)
class FileChange:
    """One file that is not the same in both."""

    file: str
    added: int
    removed: int
    patch: str
    """In the unified format."""

    def __str__(self) -> str:
        return f"{self.file} +{self.added} -{self.removed}"


def compare_code(before: dict[str, bytes], after: dict[str, bytes]) -> list[FileChange]:
    """The files that differ between two versions, as `code_snapshot.read_package` gives them."""
    names = sorted(before.keys() | after.keys())
    return [_compare(name, before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)]


def summarize(changes: list[FileChange]) -> str:
    """`methods/scl.py +3 -1, losses/relic.py +2 -0`."""
    told = ", ".join(map(str, changes[:NAMED_FILES]))
    return told + (f" and {len(changes) - NAMED_FILES} more" if len(changes) > NAMED_FILES else "")


def _compare(name: str, before: bytes | None, after: bytes | None) -> FileChange:
    old, new = ((content or b"").decode(errors="replace").splitlines() for content in (before, after))
    labels = (f"a/{name}" if before is not None else "/dev/null", f"b/{name}" if after is not None else "/dev/null")
    lines = list(difflib.unified_diff(old, new, *labels, lineterm=""))
    added, removed = (sum(line.startswith(sign) for line in lines[2:]) for sign in "+-")
    return FileChange(name, added, removed, "".join(f"{line}\n" for line in lines))
