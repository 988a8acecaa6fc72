"""Named places at which a run can be made to fail on purpose; nothing happens unless a caller has armed one.

`faults.at("checkpoint.rename")` stands in the code at each place. The proof that a run ends the same whatever
interrupts it needs interruptions at exact places, and time alone does not hit them. Faults are an argument, never an
environment variable: a job cannot be armed from outside.
"""

import errno
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

PLACES = {
    "start": "a rank begins: before it does anything",
    "meet": "before the ranks meet",
    "join": "before the process group is made",
    "build": "before the data and the model are made",
    "restore": "before the newest checkpoint is looked for",
    "warm": "before the first batch of an attempt",
    "step": "before a step",
    "forward": "before the forward pass of a micro-batch",
    "backward": "before the backward pass of a micro-batch, where gradients are exchanged",
    "update": "between the gradients and the optimizer's step",
    "step.end": "after a step, before the ranks compare their flags",
    "epoch.end": "after the last step of an epoch",
    "evaluate": "before an evaluation",
    "evaluate.batch": "before a batch of an evaluation",
    "evaluate.end": "after an evaluation, before its row is written",
    "checkpoint": "before anything of a checkpoint is written",
    "checkpoint.file": "before a rank writes its file",
    "checkpoint.barrier": "after a rank has written its file, before all have",
    "checkpoint.manifest": "before the manifest is written",
    "checkpoint.rename": "before the folder gets its name",
    "checkpoint.renamed": "after the folder has its name, before that is known to anybody",
    "checkpoint.prune": "before older checkpoints are removed",
    "result": "before the result is written",
    "end": "after the result is written",
}
"""What stands at each place. Those of a checkpoint in the background are passed by its thread."""

CLIENT_PLACES = {
    "apply.update": "before the config of a trial is brought up to date",
    "submit.folder": "before the folder of a trial is made",
    "submit.config": "in a trial's folder, before its config is there",
    "submit.send": "all folders are there, nothing is sent",
    "submit.end": "everything is sent and written down",
}
"""What stands at each place of `runner submit` and `runner apply`."""

SEARCH_PLACES = {
    "search.ask": "before the parameters of a trial of a search are drawn",
    "search.drawn": "before they are written down",
    "search.fixed": "after that, before the study knows of them",
    "search.config": "before they are in the trial's config",
    "search.prune": "a trial is to be pruned, nobody knows it yet",
    "search.pruned": "that is written down, the ranks have not agreed yet",
    "search.tell": "before the study is told of the result",
}
"""What stands at each place where a trial deals with its search."""

ACTIONS = ("USR2", "TERM", "KILL", "STOP", "raise", "full", "input/output", "slow")
"""A signal to this process, an exception of the user's code, a full disk, a broken one, two seconds of nothing."""

SLOW_SECONDS = 2.0
NOTICED_SECONDS = 5.0
"""For a signal of this process to itself: a thread takes it up, which on a busy machine may come late."""


class InjectedError(Exception):
    """What a fault raises in place of an error in the user's code."""


@dataclass(frozen=True)
class Fault:
    """One failure: at its `nth` passage of a place, by one rank or, with `rank` None, by each."""

    place: str
    action: str
    rank: int | None = None
    nth: int = 1

    def __post_init__(self) -> None:
        assert self.place in PLACES | CLIENT_PLACES | SEARCH_PLACES, self.place
        assert self.action in ACTIONS, self.action

    def __str__(self) -> str:
        who = "every rank" if self.rank is None else f"rank {self.rank}"
        return f"{self.action} for {who} at {self.place}, passage {self.nth}"


class Faults:
    """The faults armed in one process of one launch."""

    def __init__(
        self, armed: Sequence[Fault] = (), rank: int = 0, is_signalled: Callable[[], bool] = lambda: True
    ) -> None:
        """`is_signalled`: whether this process has noticed a signal; one it sends itself is noticed at its place."""
        self._is_signalled = is_signalled
        self.armed = tuple(fault for fault in armed if fault.rank in (None, rank))
        self.passages: Counter[str] = Counter()

    def at(self, place: str) -> None:
        """Pass a place; fail there if a fault is armed for this passage."""
        assert place in PLACES or place in CLIENT_PLACES or place in SEARCH_PLACES, place
        if not self.armed:
            return
        self.passages[place] += 1
        for fault in self.armed:
            if fault.place == place and fault.nth == self.passages[place]:
                print(f"runner: fault: {fault}", flush=True)
                _act(fault)
                if fault.action in ("USR2", "TERM"):
                    self._wait_until_noticed()

    def _wait_until_noticed(self) -> None:
        deadline = time.monotonic() + NOTICED_SECONDS
        while not self._is_signalled() and time.monotonic() < deadline:
            time.sleep(0.001)


def _act(fault: Fault) -> None:
    match fault.action:
        case "raise":
            raise InjectedError(str(fault))
        case "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        case "input/output":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        case "slow":
            time.sleep(SLOW_SECONDS)
        case name:
            os.kill(os.getpid(), getattr(signal, f"SIG{name}"))


NO_FAULTS = Faults()


@dataclass(frozen=True)
class Proof:
    """What a proof asks of the ranks of a launch; an ordinary run is asked nothing."""

    faults: tuple[Fault, ...] = ()
    journal: Path | None = None
    """Folder in which each rank writes what its state is after every step."""

    prompt: bool = False
    """Whether ranks compare their flags at every step, however short: the step at which they leave is then known."""


NO_PROOF = Proof()
