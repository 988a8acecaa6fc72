"""What applying an experiment file would do to each trial, decided from values: the file, the disk and the queue.

A trial has a mark for what it is, and an action for what is done about it:

+  new                                             submit
~  the same trial with other settings              submit if its job is lost, update if it failed; else nothing
-  gone from the file                              cancel if it is alive; else nothing
!  failed, cancelled or unknown                    submit if its job is lost; else nothing
>  pending, running or requeued                    nothing
=  done                                            nothing, whatever the file says
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from runner.experiment import Change, find_changes
from runner.explain import counted
from runner.rundir import RunDir
from runner.status import STOPPED
from runner.strict_yaml import flow

Mark = Literal["+", "~", "-", "!", ">", "="]
Action = Literal["submit", "update", "cancel", "nothing"]

MARKS: dict[Mark, str] = {"+": "new", "~": "changed", "-": "gone", "!": "failed", ">": "alive", "=": "done"}
"""In the order in which a plan is read."""

WORDS = ("new", "changed", "gone", *STOPPED, "alive", "done")
"""How trials are counted, in that order."""

ACTIONS: tuple[Action, ...] = ("submit", "update", "cancel")
ALIVE = ("pending", "running", "requeued")
SHOWN = 40
"""A plan of more trials is shown by its first lines of each mark."""

SHOWN_OF_MARK = 6

KEEPS = "keeps its settings until it is submitted again"
RETRIED = "`runner retry` submits it again"
UPDATED = "for `runner retry`"
RESHAPED = "has checkpoints of other ranks: `runner retry --ranks N --elastic`"


@dataclass(frozen=True)
class Found:
    """What is known of a trial that has a folder."""

    state: str
    note: str = ""
    settled: bool = True
    """Nothing changes any more unless somebody submits it again."""

    damaged: bool = False
    job: str | None = None
    """Its last job; None for a folder that a killed submission has left."""

    changes: tuple[Change, ...] = ()
    """In its config."""

    site_changes: tuple[Change, ...] = ()
    """In the profile that it was submitted with."""

    strands: bool = False
    """With its new ranks it could not go on from the checkpoints that it has."""


@dataclass(frozen=True)
class Item:
    """One trial of a plan."""

    run: RunDir
    mark: Mark
    state: str
    """What it is now; `new` when it was never submitted."""

    action: Action
    why: str = ""
    overrides: dict[str, Any] = field(default_factory=dict)
    changes: tuple[Change, ...] = ()
    job: str | None = None

    @property
    def trial(self) -> str:
        return self.run.trial

    @property
    def word(self) -> str:
        """What its mark stands for."""
        return self.state if self.mark == "!" and self.state in STOPPED else MARKS[self.mark]

    @property
    def submits(self) -> bool:
        return self.action == "submit"

    def settings(self) -> str:
        """What the sweep set, as one types it."""
        return " ".join(f"{key}={flow(value)}" for key, value in self.overrides.items()) or "as written"

    def line(self) -> str:
        changes = [f"{change.key} {flow(change.old)} -> {flow(change.new)}" for change in self.changes]
        told = "; ".join(filter(None, [", ".join(changes), self.why]))
        words = f"{self.mark} {self.trial}  {self.state:9}  {self.action:7}  {self.settings()}"
        return f"{words}  ({told})" if told else words

    def as_json(self) -> dict[str, Any]:
        return {
            "trial": self.trial,
            "mark": self.mark,
            "state": self.state,
            "action": self.action,
            "why": self.why,
            "overrides": self.overrides,
            "changes": [[change.key, change.old, change.new] for change in self.changes],
            "job": self.job,
        }


@dataclass(frozen=True)
class Plan:
    """All trials that the file names or that have a folder, and what new submissions would be told."""

    experiment: str
    items: tuple[Item, ...]
    """Those of the file, in its order; then those that are gone from it."""

    settings: dict[str, Any] = field(default_factory=dict)
    """Of the file, outside the trials' identity; equal for all trials."""

    site: dict[str, Any] = field(default_factory=dict)
    """The profile."""

    @property
    def named(self) -> tuple[Item, ...]:
        """The trials of the file."""
        return tuple(item for item in self.items if item.mark != "-")

    def of(self, action: Action) -> list[Item]:
        return [item for item in self.items if item.action == action]

    def lines(self, every: bool = False) -> list[str]:
        """The table: one line a trial; of many trials only the first of each mark, unless `every`."""
        lines = []
        for mark, word in MARKS.items():
            items = [item for item in self.items if item.mark == mark]
            shown = items if every or len(self.items) <= SHOWN else items[:SHOWN_OF_MARK]
            lines += [item.line() for item in shown]
            if len(shown) < len(items):
                lines.append(f"{mark} ... and {len(items) - len(shown)} more {word}; --all shows them")
        return [*lines, self.summary()]

    def summary(self) -> str:
        """`exp: 3 trials, 1 gone: 2 new, 1 done; 2 to submit`."""
        actions = Counter(item.action for item in self.items)
        words = Counter(item.word for item in self.items)
        told = ", ".join(f"{words[word]} {word}" for word in WORDS if words[word])
        todo = ", ".join(
            f"{actions[action]} to {action}" for action in ("submit", "update", "cancel") if actions[action]
        )
        return f"{self.experiment}: {counted(len(self.named), 'trial')} in the file: {told}; {todo or 'nothing to do'}"

    def as_json(self) -> dict[str, Any]:
        return {
            "experiment": self.experiment,
            "settings": self.settings,
            "profile": self.site,
            "items": [item.as_json() for item in self.items],
        }


def compare(
    named: Mapping[RunDir, dict[str, Any]],
    found: Mapping[RunDir, Found],
    gone: Mapping[RunDir, dict[str, Any]],
) -> tuple[Item, ...]:
    """The items of a plan.

    `named` are the trials of the file, `gone` those that have a folder only, each with what a sweep set; `found` is
    what is known of those with a folder.
    """
    items = [_item(run, overrides, found.get(run), decide(found.get(run))) for run, overrides in named.items()]
    return *items, *(_item(run, overrides, found[run], decide_gone(found[run])) for run, overrides in gone.items())


class Decision(NamedTuple):
    """What a trial is in a plan, and what is done about it."""

    mark: Mark
    action: Action
    why: str = ""
    changes: tuple[Change, ...] = ()


def decide(found: Found | None) -> Decision:
    """About a trial of the file; None stands for one without a folder."""
    if found is None or (found.state == "pending" and found.job is None):
        return Decision("+", "submit")
    if found.state == "done":
        return Decision("=", "nothing")
    if found.damaged or not (found.settled or found.state in ALIVE):
        # It may hold a result, or be alive where we cannot ask.
        return Decision("!", "nothing", found.note)
    if found.state in ALIVE:
        changes = found.changes + found.site_changes
        return Decision("~", "nothing", KEEPS, changes) if changes else Decision(">", "nothing", found.note)
    mark: Mark = "~" if found.changes else "!"
    if found.strands:
        return Decision(mark, "nothing", RESHAPED, found.changes)
    if found.state == "unknown":
        return Decision(mark, "submit", found.note.replace("`runner retry` goes", "it goes"), found.changes)
    if found.changes:
        return Decision(mark, "update", UPDATED, found.changes)
    return Decision(mark, "nothing", RETRIED)


def decide_gone(found: Found) -> Decision:
    """About a trial that the file does not name any more."""
    if found.state in ALIVE and found.job is not None:
        return Decision("-", "cancel")
    return Decision("-", "nothing", "its folder stays" if found.settled else found.note)


def _item(run: RunDir, overrides: dict[str, Any], found: Found | None, decision: Decision) -> Item:
    mark, action, why, changes = decision
    if found is None:
        return Item(run, mark, "new", action, why, overrides)
    state = "new" if mark == "+" else found.state
    return Item(run, mark, state, action, why, overrides, changes, found.job)


def find_move(shown: Plan, now: Plan) -> str:
    """Why a plan that was shown is not what would be done now, in one line; empty if it is.

    A trial that is left alone, then and now, may have gone its way meanwhile: started, requeued, done.
    """
    moves = [
        *map(str, find_changes(shown.site, now.site, "profile")),
        *map(str, find_changes(shown.settings, now.settings, "file")),
        *_moved_items({item.trial: item for item in shown.items}, {item.trial: item for item in now.items}),
    ]
    more = f" (+{len(moves) - 1} more)" if len(moves) > 1 else ""
    return f"{moves[0]}{more}" if moves else ""


def _moved_items(shown: Mapping[str, Item], now: Mapping[str, Item]) -> Iterable[str]:
    for trial in dict.fromkeys([*shown, *now]):
        before, after = shown.get(trial), now.get(trial)
        if before is None or after is None or not _is_equal(before, after):
            yield f"trial {trial}: was {_tell(before)}, is {_tell(after)}"


def _is_equal(before: Item, after: Item) -> bool:
    if before.action != after.action:
        return False
    if before.action == "nothing" and before.state in ALIVE:
        return after.state in (*ALIVE, "done")
    same = (before.mark, before.state, before.changes) == (after.mark, after.state, after.changes)
    return same and (before.action == "nothing" or before.job == after.job)


def _tell(item: Item | None) -> str:
    if item is None:
        return "not there"
    job = f" as job {item.job}" if item.job else ""
    gone = " and gone from the file" if item.mark == "-" else ""
    changes = f" with {', '.join(map(str, item.changes))}" if item.changes else ""
    return f"{item.state}{job}{gone}{changes} ({item.action})"
