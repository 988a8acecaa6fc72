"""The interrupted half of a rehearsal: events are made to happen to a run, each at its step."""

import random
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import psutil

from runner import onebox, slurm
from runner.onebox.events import node_names, preempt, rank_processes
from runner.rehearsal import KINDS, Event, Strike, left_step
from runner.rundir import RunDir
from runner.sight import Sight
from runner.status import Row, read_statuses

POLL_SECONDS = 0.05
SETTLED_SECONDS = 3.0
"""How long a job must have ended for good: a requeue shows it as ended for a moment."""


@dataclass
class Stage:
    """The interrupted run, and who interrupts it."""

    cluster: onebox.Cluster
    run: RunDir
    draw: random.Random
    patience_seconds: float
    sight: Sight = field(init=False)

    def __post_init__(self) -> None:
        self.sight = Sight(self.run)

    @property
    def job_id(self) -> str:
        return str(self.run.job_rows()[-1]["job_id"])

    def play(self, events: Sequence[Event]) -> tuple[list[Strike], str]:
        """Let every event happen in its turn, then wait for the end; what happened, and why it ended early."""
        strikes: list[Strike] = []
        for event in events:
            if problem := self._wait(partial(self._has_reached, event.step, strikes)):
                return strikes, f"{event.kind} at step {event.step} was not reached: {problem}"
            nodes, processes = node_names(self.cluster, self.job_id), rank_processes(self.cluster, self.job_id)
            if not nodes or not processes:
                return (
                    strikes,
                    f"{event.kind} at step {event.step} came too late, the trial was over; take more --steps",
                )
            attempt, step = self.sight.newest
            strikes.append(Strike(event, time.time(), attempt))
            recover = self._strike(event.kind, self.draw.choice(nodes), self.draw.choice(list(processes.values())))
            say(f"step {step}, attempt {attempt}: {KINDS[event.kind]}")
            problem = self._wait(lambda: self._moves(strikes))
            recover()
            if problem and not self.run.result.exists():
                return strikes, f"it did not come back after {KINDS[event.kind]} at step {step}: {problem}"
        problem = self._wait(self.run.result.exists)
        return strikes, f"it did not end: {problem}" if problem else ""

    def _has_reached(self, step: int, strikes: Sequence[Strike]) -> bool:
        return self.sight.newest[1] >= step and self._moves(strikes)

    def _moves(self, strikes: Sequence[Strike]) -> bool:
        """Whether the trial is further than the last event left it."""
        if not strikes:
            return True
        (attempt, step), last = self.sight.newest, strikes[-1]
        return attempt > last.attempt and step > left_step(last, self.run.attempt_rows(), self.sight.steps)

    def _strike(self, kind: str, node: str, process: psutil.Process) -> Callable[[], object]:
        """Make it happen; what is returned puts the cluster right again, once the trial is back."""
        if kind == "preempt":
            preempt(self.cluster, node)
        elif kind == "term":
            onebox.set_user_signal(self.cluster, False)
            preempt(self.cluster, node)
            return lambda: onebox.set_user_signal(self.cluster, True)
        elif kind == "requeue":
            slurm.requeue(self.job_id)
        elif kind == "kill":
            with suppress(psutil.NoSuchProcess):
                process.kill()
        else:
            onebox.kill_node(self.cluster, node)
            return lambda: onebox.revive_node(self.cluster, node)
        return lambda: None

    def _wait(self, until: Callable[[], object]) -> str:
        """Look on until something is so; in words why it will not be, else nothing."""
        moved, before = time.monotonic(), self.sight.newest
        ended: float | None = None
        next_question = 0.0
        while True:
            self.sight.look()
            if until():
                return ""
            now = time.monotonic()
            if self.sight.newest != before:
                moved, before = now, self.sight.newest
            if now >= next_question:
                next_question = now + 1
                (row,) = read_statuses([self.run])
                ended = None if not row.settled else ended or now
                if ended is not None and (row.record.is_final or now - ended >= SETTLED_SECONDS):
                    self.sight.look()
                    return "" if until() else why(row)
                if now - moved > self.patience_seconds:
                    return f"no step for {self.patience_seconds:.0f} s; it is {row.state} {row.note}".rstrip()
            time.sleep(POLL_SECONDS)


def why(row: Row) -> str:
    return f"the trial is {row.state}{f': {row.note}' if row.note else ''}"


def say(text: str) -> None:
    print(f"runner: {text}", file=sys.stderr, flush=True)
