"""What ended a rank, read from an exception or from the end of a log.

Light on purpose: torch's errors are known by name, since this runs in a batch script that is about to be killed.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from runner.wording import BASES, BY_ERRNO, BY_LINE, BY_TEXT, BY_TYPE, SPEAKERS, SRUN

_COMPILED_TEXT = tuple((cause, re.compile("|".join(patterns))) for cause, patterns in BY_TEXT)
_COMPILED_LINES = tuple((cause, re.compile("|".join(patterns), re.MULTILINE)) for cause, patterns in BY_LINE)
_RAISED = re.compile(
    r"^(?:\[rank(?P<rank>\d+)\]: ?)?(?P<type>[A-Za-z_][\w.]*(?:Error|Exception|BadZipFile))(?:: (?P<text>.*))?$"
)
_TASKS = re.compile(rf"^{SRUN}(?P<node>\S+): tasks? (?P<tasks>[\d,-]+): (?P<word>.+)$", re.MULTILINE)
_NODE = re.compile(rf"^{SRUN}(?:Node failure on|Task launch for \S+ failed on node) (?P<node>[\w.-]*\w)", re.MULTILINE)
_STEPD_NODE = re.compile(r"\*\*\* \S+ \S+ ON (?P<node>\S+) UNCORRECTABLE MEMORY ERROR")
SECONDARY = ("peer crash", "killed", "launch failed", "hang")
"""What may follow from something else that the log tells of."""


def classify(error: BaseException) -> str:
    """The cause class of what ended a rank, by the error and those that it was raised from."""
    told = [_classify_one(error)]
    if told[0] != "peer crash" or "SaveError" not in _names(error):
        return told[0]
    # A save fails for the reason of its write.
    step: BaseException | None = error
    while step is not None:
        told.append(_classify_one(step))
        step = step.__cause__ or (None if step.__suppress_context__ else step.__context__)
    return next((cause for cause in told if cause not in ("user code", "peer crash")), told[0])


def _classify_one(error: BaseException) -> str:
    return classify_words(_names(error), str(error), getattr(error, "errno", None))


def classify_words(types: Iterable[str], text: str, number: int | None = None) -> str:
    """The same from the names of an error's class and its bases, most derived first, its text and its errno."""
    names = list(types)
    for name in names:
        if name in BY_TYPE:
            return BY_TYPE[name]
    if number in BY_ERRNO:
        return BY_ERRNO[number]
    if (names and names[0] in SPEAKERS) or "OSError" in names:
        for cause, pattern in _COMPILED_TEXT:
            if pattern.search(text):
                return cause
    return "peer crash" if "DistError" in names else "user code"


def _names(error: BaseException) -> list[str]:
    names = [kind.__name__ for kind in type(error).__mro__]
    # zlib's only error is called `error`, as are those of a dozen other modules.
    return [f"{type(error).__module__}.error", *names] if names[0] == "error" else names


@dataclass(frozen=True)
class Sign:
    """What the end of a log tells."""

    cause: str | None = None
    line: str = ""
    ranks: tuple[int, ...] = ()
    """Ranks that the line is about, or those that Slurm names as the first to end badly."""

    node: str | None = None


def read_log(text: str) -> Sign:
    """The cause that the end of a log shows, None where it shows none."""
    said, raised, (tasks, node) = _read_lines(text), _read_traceback(text), _first_tasks(text)
    if raised is not None and (said is None or (said[0] in SECONDARY and raised[0] != "peer crash")):
        cause, line, ranks = raised
        return Sign(cause, line, ranks or tasks, node)
    if said is None:
        return Sign(None, "", tasks, node)
    named = _NODE.search(text) or _STEPD_NODE.search(said[1])
    return Sign(*said, tasks, named["node"] if named else node)


def _read_lines(text: str) -> tuple[str, str] | None:
    for cause, pattern in _COMPILED_LINES:
        if match := pattern.search(text):
            begin, end = text.rfind("\n", 0, match.start()) + 1, text.find("\n", match.start())
            return cause, text[begin : end if end >= 0 else None].strip()
    return None


def _read_traceback(text: str) -> tuple[str, str, tuple[int, ...]] | None:
    """The error that the first traceback of the text ends with: later ones are of those who lost their peer."""
    lines = text.splitlines()
    found: list[tuple[str, str, tuple[int, ...]]] = []
    inside = False
    for number, line in enumerate(lines):
        if "Traceback (most recent call last):" in line:
            inside = True
        elif inside and (match := _RAISED.match(line)):
            inside = False
            name = match["type"].rpartition(".")[2]
            types = [match["type"] if name == "error" else name, *BASES.get(name, ())]
            said = " ".join([match["text"] or "", *lines[number + 1 : number + 8]])
            code = re.match(r"\[Errno (\d+)\]", match["text"] or "")
            cause = classify_words(types, said, int(code[1]) if code else None)
            found.append((cause, line, (int(match["rank"]),) if match["rank"] else ()))
    telling = [entry for entry in found if entry[0] != "peer crash"]
    return next(iter(telling or found), None)


def _first_tasks(text: str) -> tuple[tuple[int, ...], str | None]:
    """The tasks that srun says ended badly first, and their node; those it ended itself come after."""
    match = _TASKS.search(text)
    if match is None:
        return (), None
    return tuple(_expand(match["tasks"])), match["node"]


def _expand(spans: str) -> Iterable[int]:
    for span in spans.split(","):
        first, _, last = span.partition("-")
        yield from range(int(first), int(last or first) + 1)
