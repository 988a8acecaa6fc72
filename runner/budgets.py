"""How often a trial is requeued after each class of end, and how long it waits before: a table, and its arithmetic.

| class | requeued | counted | waits |
|---|---|---|---|
| preempted, time limit, terminated | 5 times each | without progress | |
| node failure | 5 times | in a day | |
| killed, launch failed | as `max_failures` says | without progress | yes |
| peer crash, I/O error | 3 times | without progress | yes |
| hang | 2 times | in all | yes |
| CUDA out of memory | once, if the trial has made a step | in all | yes |
| everything else: a cancel, the user's code, configuration, data, checkpoint, loss, host memory, disk | never | | |

Without progress = since an attempt last left a newer checkpoint than it began from. In all = since the trial was last
submitted. Those that wait (0, 60, then 300 s) are the crashes that the profile's `max_failures` bounds together.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

BACK_OFF_SECONDS = (0, 60, 300)
"""Before the first, the second, and every further launch after crashes without progress."""

DAY_SECONDS = 24 * 60 * 60
EQUAL_CRASHES = 3
"""So many crashes of one class, one error and one place at one step are no accident."""


ONLY_AGAIN = "would only come again"


@dataclass(frozen=True)
class Policy:
    """What follows a class of end."""

    requeues: int | None = 0
    """How often; None: as often as `max_failures` allows."""

    counted: Literal["without progress", "in a day", "in all"] = "without progress"
    is_crash: bool = False
    """It counts towards `max_failures`, and the next launch waits."""

    needs_step: bool = False
    """Only if the trial has made a step before."""


_ORDER = Policy(5)
POLICIES = {
    "preempted": _ORDER,
    "time limit": _ORDER,
    "terminated": _ORDER,
    "node failure": Policy(5, "in a day"),
    "killed": Policy(None, is_crash=True),
    "launch failed": Policy(None, is_crash=True),
    "peer crash": Policy(3, is_crash=True),
    "I/O error": Policy(3, is_crash=True),
    "hang": Policy(2, "in all", is_crash=True),
    "CUDA out of memory": Policy(1, "in all", is_crash=True, needs_step=True),
}
NEVER = Policy()
"""For the classes that would only come again: "cancelled", "user code", "configuration", "bad data" and so on."""


@dataclass(frozen=True)
class End:
    """How an attempt, or a launch that did not become one, ended."""

    cause: str
    time: float = 0.0
    start_step: int | None = None
    progressed: bool = False
    """It left a newer checkpoint than it began from."""

    step: int | None = None
    signature: str | None = None


def read_ends(rows: list[dict[str, Any]]) -> list[End]:
    """The ends that rows of attempts.jsonl tell, in order; an attempt without an end row is left out."""
    starts = [row for row in rows if row["event"] == "start"]
    begun: dict[str, Any] | None = None
    ends = []
    for row in rows:
        if row["event"] == "start":
            begun = row
            continue
        own = begun if begun is not None and begun["attempt"] == row["attempt"] else None
        ends.append(
            End(
                row["cause"],
                row.get("time", 0.0),
                own["start_step"] if own else None,
                own is not None and _progressed(own, row, starts),
                row.get("end_step"),
                row.get("signature"),
            )
        )
        begun = None
    return ends


def _progressed(begun: dict[str, Any], row: dict[str, Any], starts: list[dict[str, Any]]) -> bool:
    later = [start["start_step"] for start in starts if start["attempt"] > begun["attempt"]]
    saved = row.get("saved_step")
    if row.get("signal_to_saved_seconds") is not None:
        saved = row["end_step"]
    reached = later[0] if later else saved
    return reached is not None and reached > begun["start_step"]


def verdict(ends: list[End], max_failures: int, has_stepped: bool) -> tuple[str | None, int]:
    """Whether a trial goes on after the last of `ends`: (why not, None if it does; seconds to wait first)."""
    newest = ends[-1]
    policy = POLICIES.get(newest.cause, NEVER)
    if policy.requeues == 0:
        return f"{newest.cause} {ONLY_AGAIN}", 0
    if policy.needs_step and not has_stepped:
        return f"{newest.cause} before the first step {ONLY_AGAIN}", 0
    count = _count(ends, policy)
    if policy.requeues is not None and count > policy.requeues:
        times = "once" if policy.requeues == 1 else f"{policy.requeues} times"
        return f"{newest.cause} came {count} times {policy.counted}; it is requeued {times}", 0
    if not policy.is_crash:
        return None, 0
    if _are_equal(ends):
        step = "before the first step" if newest.step is None else f"at step {newest.step}"
        return f"the last {EQUAL_CRASHES} crashes were the same {step}: {newest.signature}", 0
    crashes = count_crashes(ends)
    if crashes > max_failures:
        return f"{crashes} failures in a row without a new checkpoint (max_failures={max_failures})", 0
    return None, BACK_OFF_SECONDS[min(crashes, len(BACK_OFF_SECONDS)) - 1]


def count_crashes(ends: list[End]) -> int:
    """Crashes since the last progress, the newest included."""
    return sum(POLICIES.get(end.cause, NEVER).is_crash for end in _without_progress(ends))


def _count(ends: list[End], policy: Policy) -> int:
    newest = ends[-1]
    if policy.counted == "without progress":
        among = list(_without_progress(ends))
    elif policy.counted == "in a day":
        among = [end for end in ends if end.time > newest.time - DAY_SECONDS]
    else:
        among = ends
    return sum(end.cause == newest.cause for end in among)


def _without_progress(ends: list[End]) -> Iterator[End]:
    """The newest end, and those before it back to the last that left a newer checkpoint."""
    yield ends[-1]
    if ends[-1].progressed:
        return
    for end in reversed(ends[:-1]):
        if end.progressed:
            return
        yield end


def _are_equal(ends: list[End]) -> bool:
    crashes = [end for end in ends if POLICIES.get(end.cause, NEVER).is_crash][-EQUAL_CRASHES:]
    kinds = {(end.cause, end.signature, end.step) for end in crashes}
    return len(crashes) == EQUAL_CRASHES and len(kinds) == 1 and crashes[0].signature is not None
