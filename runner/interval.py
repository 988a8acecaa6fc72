"""How long to train between two checkpoints: what saving costs against what an interruption without warning loses."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

MAX_LOST_SECONDS = 15 * 60
MIN_SAVE_INTERVAL_SECONDS = 60
MAX_SHARE = 0.01
"""Of the time goes into saving, at most, unless that would risk more than MAX_LOST_SECONDS."""

PRIOR_SECONDS = 6 * 3600
"""Before anything is known: an interruption in so much time, four a day."""

TELLING_SHARE = 0.2
"""An interval that changed by less is not worth a line in the log."""


@dataclass(frozen=True)
class Interruptions:
    """What happened to a trial so far."""

    unplanned: int = 0
    """Ends of attempts that saved nothing: kills, crashes, dead nodes. A preemption that saves loses nothing."""

    run_seconds: float = 0.0
    """How long its attempts ran."""


def count_interruptions(rows: Iterable[Mapping[str, Any]]) -> Interruptions:
    """From the rows of attempts.jsonl, of attempts that are over.

    An attempt that left no end row was killed; how long it had run then nobody knows, and it counts as no time.
    """
    starts: dict[int, float] = {}
    unplanned, run_seconds = 0, 0.0
    for row in rows:
        if row["event"] == "start":
            starts[row["attempt"]] = row["time"]
        elif row["attempt"] in starts:
            run_seconds += max(row["time"] - starts.pop(row["attempt"]), 0.0)
            unplanned += row["cause"] != "done" and row["signal_to_saved_seconds"] is None
    return Interruptions(unplanned + len(starts), run_seconds)


def longest_stop_seconds(rows: Iterable[Mapping[str, Any]]) -> float | None:
    """The longest time from a signal to the saved state in rows of attempts.jsonl; None when there was none."""
    return max((row["signal_to_saved_seconds"] for row in rows if row.get("signal_to_saved_seconds")), default=None)


def mean_seconds_to_interruption(before: Interruptions, this_attempt_seconds: float) -> float:
    """The expected time to the next interruption, the prior counting as one that was seen."""
    return (PRIOR_SECONDS + before.run_seconds + this_attempt_seconds) / (1 + before.unplanned)


def save_interval_seconds(every_minutes: float | str, save_seconds: float, mtti_seconds: float = 0.0) -> float:
    """Seconds from one periodic checkpoint to the next, by `every_minutes` where that is a number.

    `auto`: Young's sqrt(2 * save * MTTI), which makes what saving and redoing cost together the least; saving takes at
    most 1 % of the time; and, before all, a kill costs at most 15 minutes and no two come within one.
    `save_seconds`: what training loses to one checkpoint. `mtti_seconds`: mean time to interruption; 0 leaves it out.
    """
    if not isinstance(every_minutes, str):
        return every_minutes * 60
    cheapest = math.sqrt(2 * save_seconds * mtti_seconds)
    return min(max(cheapest, save_seconds / MAX_SHARE, MIN_SAVE_INTERVAL_SECONDS), MAX_LOST_SECONDS)


def is_news(interval_seconds: float, told_seconds: float) -> bool:
    """Whether an interval differs enough from the last one told."""
    return abs(interval_seconds - told_seconds) > TELLING_SHARE * told_seconds
