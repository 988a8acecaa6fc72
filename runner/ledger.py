"""Where the time of a trial went, from its submission to its end: every second is of one kind.

Rank 0 of each launch counts its own time by kind and leaves readings of that clock: at its start, at each checkpoint
and evaluation, with each heartbeat, at its end. From them follow the spans of the trial, one after the other without
a gap, so they sum to its wall time; a launch that was killed counts up to its last word, and is idle from there on.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

START_UP, RESTORING, TRAINING = "start_up", "restoring", "training"
SAVING, EVALUATION, IDLE = "saving", "evaluation", "idle"
USEFUL, REDONE, QUEUE = "useful", "redone", "queue"

CLOCK = (START_UP, RESTORING, TRAINING, EVALUATION, SAVING, IDLE)
"""What a rank counts, in the order in which it comes between two readings."""

KINDS = (USEFUL, REDONE, SAVING, RESTORING, START_UP, EVALUATION, QUEUE, IDLE)
"""What a ledger tells. Training is useful, or redone where its steps did not outlive an interruption."""


OWN_CAUSES = (
    "user code",
    "configuration",
    "bad data",
    "bad checkpoint",
    "non-finite loss",
    "host out of memory",
    "CUDA out of memory",
    "cancelled",
)
"""Ends that a trial or its user brought about: they say nothing of how often the site interrupts."""


@dataclass(frozen=True)
class Reading:
    """The clock of rank 0 at a moment of its launch."""

    time: float
    """Unix seconds."""

    step: int
    seconds: Mapping[str, float]
    """By the kinds of CLOCK, since the launch began."""

    kind: str = TRAINING
    """What the rank was at."""

    @property
    def launched(self) -> float:
        return self.time - sum(self.seconds.values())

    def rounded(self) -> dict[str, float]:
        return {kind: round(value, 3) for kind, value in self.seconds.items()}

    def as_row(self) -> dict[str, Any]:
        return {"time": self.time, "step": self.step, "kind": self.kind, "seconds": self.rounded()}

    def later(self, time: float, step: int) -> "Reading":
        """The clock at a later moment of which only the step is known."""
        kind = TRAINING if step > self.step else self.kind
        seconds = {**self.seconds, kind: self.seconds.get(kind, 0.0) + time - self.time}
        return Reading(time, max(step, self.step), seconds, kind)


@dataclass(frozen=True)
class Launch:
    """One start of a trial's job, as its files tell."""

    attempt: int | None = None
    """None where it ended before it had a number."""

    readings: tuple[Reading, ...] = ()
    """In the order of their times, up to its last word."""

    start_step: int | None = None
    """The step it went on from; None where it did not get so far."""

    end: float | None = None
    """Unix seconds at which its end was noticed; None where nobody said."""

    cause: str | None = None
    requeued: bool = False
    saved: bool = False
    """It left with all its steps on disk."""

    ranks: int = 1

    @property
    def launched(self) -> float | None:
        return self.readings[0].launched if self.readings else None


@dataclass(frozen=True)
class History:
    """When a trial did what."""

    submissions: tuple[float, ...]
    """Unix seconds, in order."""

    launches: tuple[Launch, ...]
    until: float
    """Unix seconds: when the trial was over; now, while it is not."""

    is_waiting: bool = False
    """In the queue until then."""


@dataclass(frozen=True)
class Span:
    """A stretch of time of one kind, in unix seconds."""

    kind: str
    begin: float
    end: float
    launch: int
    """Its place among the launches; the queue before a launch belongs to it, too."""

    steps: float = 0.0
    ranks: int = 1

    @property
    def seconds(self) -> float:
        return self.end - self.begin


@dataclass(frozen=True)
class Interruption:
    """What the end of a launch cost that left a trial undone."""

    attempt: int | None
    time: float
    """Unix seconds of the last word."""

    cause: str
    saved: bool
    redone_steps: int
    redone_seconds: float
    idle_seconds: float
    """From the last word until its end was noticed; and what followed a save."""

    queue_seconds: float
    restart_seconds: float
    """Start-up and restoring of the launch that followed."""

    is_followed: bool = True
    """By a launch; the last of a trial is not."""

    @property
    def is_of_the_site(self) -> bool:
        """Whether it would have struck any trial there; else the trial or its user brought it about."""
        return self.cause not in OWN_CAUSES

    @property
    def seconds(self) -> float:
        return self.redone_seconds + self.idle_seconds + self.queue_seconds + self.restart_seconds


@dataclass(frozen=True)
class Ledger:
    """Seconds by kind, of a trial or of many."""

    seconds: Mapping[str, float]
    useful_steps: int = 0
    redone_steps: int = 0
    saves: int = 0
    starts: tuple[float, ...] = ()
    """Start-up and restoring of each launch that came to its first step."""

    interruptions: tuple[Interruption, ...] = ()

    @property
    def wall_seconds(self) -> float:
        return sum(self.seconds.values())

    @property
    def held_seconds(self) -> float:
        """While it had its nodes: all but the queue."""
        return self.wall_seconds - self.seconds[QUEUE]

    def ratio(self, with_queue: bool = False) -> float | None:
        """The effective training time ratio, useful of all; None before there was any time."""
        whole = self.wall_seconds if with_queue else self.held_seconds
        return self.seconds[USEFUL] / whole if whole > 0 else None


def keep_account(history: History, per_rank: bool = False) -> Ledger:
    """The ledger of a trial; with `per_rank` a second counts once for each rank."""
    spans = lay_out(history)
    seconds = dict.fromkeys(KINDS, 0.0)
    for span in spans:
        seconds[span.kind] += span.seconds * (span.ranks if per_rank else 1)
    return Ledger(
        seconds,
        useful_steps=round(sum(span.steps for span in spans if span.kind == USEFUL)),
        redone_steps=round(sum(span.steps for span in spans if span.kind == REDONE)),
        saves=sum(len({each.step for each in launch.readings if each.kind == SAVING}) for launch in history.launches),
        starts=tuple(
            clock.get(START_UP, 0.0) + clock.get(RESTORING, 0.0)
            for launch in history.launches
            if launch.readings and (clock := launch.readings[-1].seconds).get(TRAINING)
        ),
        interruptions=tuple(_interruptions(history, spans)),
    )


def add_up(ledgers: Iterable[Ledger]) -> Ledger:
    """One ledger of many trials."""
    ledgers = list(ledgers)
    return Ledger(
        {kind: sum(ledger.seconds[kind] for ledger in ledgers) for kind in KINDS},
        useful_steps=sum(ledger.useful_steps for ledger in ledgers),
        redone_steps=sum(ledger.redone_steps for ledger in ledgers),
        saves=sum(ledger.saves for ledger in ledgers),
        starts=tuple(each for ledger in ledgers for each in ledger.starts),
        interruptions=tuple(each for ledger in ledgers for each in ledger.interruptions),
    )


def lay_out(history: History) -> list[Span]:
    """The spans of a trial in their order, each beginning where the one before ends.

    Only between the end of a trial and a submission that takes it up again is a gap: nobody waited for it then.
    """
    launches = history.launches
    kept = _kept_steps(launches)
    spans: list[Span] = []
    at = history.submissions[0] if history.submissions else None
    for index, launch in enumerate(launches):
        limit = min((each.launched for each in launches[index + 1 :] if each.launched is not None), default=None)
        limit = history.until if limit is None else min(limit, history.until)
        began = launch.launched if launch.launched is not None else launch.end
        began = min(limit, began if began is not None else limit)
        at = _queued(history, index, at, began)
        spans.append(Span(QUEUE, at, began := max(at, began), index, ranks=launch.ranks))
        limit = max(limit, began)
        spans += (last := _Cursor(index, launch, began, limit, kept[index])).walk()
        end = launch.end
        if end is None:
            end = next((moment for moment in history.submissions if moment > last.at), limit)
        spans.append(Span(IDLE, last.at, at := max(last.at, min(end, limit)), index, ranks=launch.ranks))
    if history.is_waiting:
        at = _queued(history, len(launches), at, history.until)
        ranks = launches[-1].ranks if launches else 1
        spans.append(Span(QUEUE, at, max(at, history.until), len(launches), ranks=ranks))
    return [span for span in spans if span.seconds > 0 or span.steps]


def _queued(history: History, index: int, at: float | None, began: float) -> float:
    """Since when the launch at `index` had been in the queue; `at`: the end of the one before, or the submission.

    A scheduler may requeue a job that did not ask for it. Whoever starts a trial by hand waits in no queue.
    """
    if at is None or not history.submissions:
        return began if at is None else max(at, began)
    if index and not history.launches[index - 1].requeued:
        return max((moment for moment in history.submissions if at <= moment <= began), default=at)
    return at


def _kept_steps(launches: tuple[Launch, ...]) -> list[float]:
    """For each launch the last of its steps that the later ones went on from; what it did beyond was done again."""
    starts = [float("inf") if launch.start_step is None else launch.start_step for launch in launches[1:]]
    return [*reversed(list(itertools.accumulate(reversed(starts), min))), float("inf")]


@dataclass
class _Cursor:
    """Walks over the readings of a launch."""

    index: int
    launch: Launch
    at: float
    limit: float
    """When the next launch began: what a zombie did from then on is of no account."""

    kept: float

    def walk(self) -> Iterator[Span]:
        before: Mapping[str, float] = {}
        step = self.launch.start_step or 0
        for reading in self.launch.readings:
            to = max(self.at, min(reading.time, self.limit))
            spent = {kind: max(reading.seconds.get(kind, 0.0) - before.get(kind, 0.0), 0.0) for kind in CLOCK}
            # A clock of the machine that was set meanwhile stretches or shrinks all kinds alike.
            whole = sum(spent.values())
            scale = (to - self.at) / whole if whole > 0 else 0.0
            for kind, seconds in spent.items():
                if kind == TRAINING:
                    yield from self._train(step, reading.step, seconds * scale)
                else:
                    yield self._go(kind, seconds * scale)
            before, step = reading.seconds, max(step, reading.step)
            if not whole:
                yield self._go(IDLE, to - self.at)

    def _train(self, step: int, to: int, seconds: float) -> Iterator[Span]:
        """Steps from `step` to `to`: useful as far as they are kept."""
        steps = max(to - step, 0)
        useful = min(max(self.kept - step, 0), steps)
        share = useful / steps if steps else float(step < self.kept or self.kept == float("inf"))
        yield self._go(USEFUL, seconds * share, useful)
        yield self._go(REDONE, seconds * (1 - share), steps - useful)

    def _go(self, kind: str, seconds: float, steps: float = 0.0) -> Span:
        begin, self.at = self.at, min(self.at + seconds, self.limit)
        return Span(kind, begin, self.at, self.index, steps, self.launch.ranks)


def _interruptions(history: History, spans: list[Span]) -> Iterator[Interruption]:
    """One for each launch that ended before the trial was done, but for an end that it or its user brought about."""

    def total(launch: int, *kinds: str) -> float:
        return sum(span.seconds for span in spans if span.launch == launch and span.kind in kinds)

    for index, launch in enumerate(history.launches):
        is_last = index + 1 == len(history.launches)
        is_end = is_last and not launch.requeued and launch.cause in OWN_CAUSES
        if launch.cause == "done" or is_end or (is_last and launch.end is None):
            continue
        own = [span for span in spans if span.launch == index]
        yield Interruption(
            attempt=launch.attempt,
            time=launch.readings[-1].time if launch.readings else launch.end or history.until,
            cause=launch.cause or "lost",
            saved=launch.saved,
            redone_steps=round(sum(span.steps for span in own if span.kind == REDONE)),
            redone_seconds=total(index, REDONE),
            idle_seconds=total(index, IDLE),
            queue_seconds=total(index + 1, QUEUE),
            restart_seconds=total(index + 1, START_UP, RESTORING),
            is_followed=not is_last,
        )
