"""Goodput on paper: trials that fail and are preempted at random, played many times, beside the closed formulas.

Failures strike each node at a constant rate, preemptions each trial. A launch starts up, then trains and saves in turn.
A failure costs what was done since the last save; a preemption with enough grace costs one more save; both cost a
restart, and a wait in the queue, which holds no nodes: others have them, and the trial finds some when it is over.
"""

import heapq
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runner.errors import ConfigError
from runner.interval import save_interval_seconds
from runner.ledger import EVALUATION, IDLE, REDONE, SAVING, USEFUL, Ledger

HOUR, DAY = 3600.0, 86400.0
Seconds = NDArray[np.float64]

KINDS = ("useful", "evaluation", "redone", "saving", "restarting", "queue")
TALLIED = (*KINDS, "failures", "preemptions", "saves")
AT_ONCE = 200_000
"""Trials, so that their arrays stay in the caches."""

LEAST_INTERVAL_SECONDS = 1.0
"""Of training between two checkpoints; where a save costs nothing, the best one would be none at all."""

LEAST_CHANCE = 1e-3
"""That a launch comes to its first save; with less a trial would be started again for ever."""


@dataclass(frozen=True)
class Scenario:
    """Trials and what happens to them."""

    trials: int = 1
    training_hours: float = 24.0
    """Of useful training in a trial."""

    nodes: int = 1
    """Of each trial."""

    pool: int | None = None
    """Nodes in all; None: enough for all trials at the same time."""

    failures_per_1000_node_days: float = 6.5
    preempt_every_hours: float = math.inf
    """Mean time between two preemptions of a trial."""

    save_seconds: float = 5.0
    """How long training stands still for a checkpoint."""

    restart_seconds: float = 300.0
    """From the launch of a job to its first step."""

    queue_seconds: float = 0.0
    """From a requeue to the launch."""

    grace_seconds: float = 120.0
    """From the warning of a preemption to the end; less than a save takes loses what a failure does."""

    evaluation_share: float = 0.0
    """Seconds of evaluation for each second of training."""

    interval: float | str = "auto"
    """Minutes of training between two checkpoints; `auto` as the runner chooses them; `young`: Young and Daly."""

    @property
    def pace(self) -> float:
        """Seconds that a second of useful training takes, evaluation included."""
        return 1 + self.evaluation_share

    @property
    def failure_rate(self) -> float:
        """Of a trial, a second with nodes."""
        return self.nodes * self.failures_per_1000_node_days / (1000 * DAY)

    @property
    def preemption_rate(self) -> float:
        return 1 / (self.preempt_every_hours * HOUR)

    @property
    def is_graceful(self) -> bool:
        return self.grace_seconds >= self.save_seconds

    @property
    def loss_rate(self) -> float:
        """Of interruptions that leave no time to save."""
        return self.failure_rate + (0.0 if self.is_graceful else self.preemption_rate)

    @property
    def mttf_hours(self) -> float:
        return 1 / self.failure_rate / HOUR if self.failure_rate else math.inf

    @property
    def mtti_hours(self) -> float:
        """Mean time to the next interruption of a trial, of any kind."""
        rate = self.failure_rate + self.preemption_rate
        return 1 / rate / HOUR if rate else math.inf

    @property
    def interval_seconds(self) -> float:
        """Of training between two checkpoints."""
        mtti_seconds = 1 / self.loss_rate if self.loss_rate else self.training_hours * HOUR
        if self.interval == "young":
            return best_interval_seconds(self.save_seconds, mtti_seconds)
        return save_interval_seconds(self.interval, self.save_seconds, mtti_seconds)

    def check(self) -> None:
        """Raise ConfigError for trials that would never come to an end, or to a start."""
        if self.pool is not None and self.pool < self.nodes:
            raise ConfigError(f"pool: {self.pool} nodes are too few for a trial of {self.nodes}")
        first_round = min(self.interval_seconds, self.training_hours * HOUR) * self.pace + self.save_seconds
        chance = math.exp(-(self.failure_rate + self.preemption_rate) * self.restart_seconds)
        chance *= math.exp(-self.loss_rate * (0.0 if self.is_graceful and self.preemption_rate else first_round))
        if chance < LEAST_CHANCE:
            minutes = self.interval_seconds / 60
            raise ConfigError(
                f"interval: {minutes:.3g} minutes are too long: one launch in {1 / max(chance, 1e-99):.3g} would come "
                f"to its first save, with an interruption every {self.mtti_hours:.3g} h"
            )


@dataclass(frozen=True)
class Estimate:
    """A mean over repetitions and the range that holds 95 % of them."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Seconds) -> "Estimate":
        low, high = np.quantile(values, [0.025, 0.975])
        return cls(float(values.mean()), float(low), float(high))


@dataclass(frozen=True)
class Outcome:
    """What came of a scenario; hours and numbers are of all its trials."""

    ratio: Estimate
    """Useful of all the time with nodes: the effective training time ratio."""

    ratio_with_queue: Estimate
    """With the waits of requeued trials, and, in a pool, those for their first nodes."""

    hours: dict[str, float]
    """Of trials, by KINDS."""

    node_hours: Estimate
    failures: float
    preemptions: float
    saves: float
    makespan_hours: Estimate
    """From the submission of all to the end of the last."""


@dataclass(frozen=True)
class Tally:
    """What has become of each trial, seconds by KINDS and numbers, by TALLIED; shapes: repetitions x trials."""

    values: dict[str, Seconds]

    @property
    def held(self) -> Seconds:
        """With nodes."""
        return sum((self.values[kind] for kind in KINDS if kind != "queue"), np.zeros_like(self.values["useful"]))

    def add(self, name: str, trial: Any, values: Any) -> None:
        self.values[name].reshape(-1)[trial] += values


def simulate(scenario: Scenario, repeats: int = 20, seed: int = 0) -> Outcome:
    """Play a scenario so many times. Raises: ConfigError for one that would not come to an end."""
    scenario.check()
    draw = np.random.default_rng(seed)
    most = max(1, AT_ONCE // scenario.trials)
    tallies = [play(scenario, draw, min(most, repeats - done)) for done in range(0, repeats, most)]
    ends = np.concatenate([_fill_pool(scenario, tally) for tally in tallies])
    totals = {name: np.concatenate([tally.values[name].sum(axis=1) for tally in tallies]) for name in TALLIED}
    totals["queue"] += ends[:, 0]
    held = sum((totals[kind] for kind in KINDS if kind != "queue"), np.zeros(repeats))
    return Outcome(
        ratio=Estimate.of(totals["useful"] / held),
        ratio_with_queue=Estimate.of(totals["useful"] / (held + totals["queue"])),
        hours={kind: float(totals[kind].mean()) / HOUR for kind in KINDS},
        node_hours=Estimate.of(held * scenario.nodes / HOUR),
        failures=float(totals["failures"].mean()),
        preemptions=float(totals["preemptions"].mean()),
        saves=float(totals["saves"].mean()),
        makespan_hours=Estimate.of(ends[:, 1] / HOUR),
    )


def play(scenario: Scenario, draw: np.random.Generator, repeats: int = 1) -> Tally:
    """A life of every trial, so many times: all launches of the same number at once, until no trial is left."""
    tally = Tally({name: np.zeros((repeats, scenario.trials)) for name in TALLIED})
    trial = np.arange(repeats * scenario.trials)
    left = np.full(len(trial), scenario.training_hours * HOUR * scenario.pace)
    while len(trial):
        left = _launch(scenario, draw, tally, trial, left)
        trial, left = trial[left > 0], left[left > 0]
    return tally


def measured(total: Ledger, finished: Ledger, *, trials: int, done: int, launches: int, nodes: int = 1) -> Scenario:
    """The scenario that so many trials are in: the costs, rates and interval of all, the length of those that are done.

    `total` is of all trials and their `launches`, `finished` of the `done` ones.
    """
    struck = [each for each in total.interruptions if each.is_of_the_site]
    saved = sum(each.saved for each in struck)
    training = total.seconds[USEFUL] + total.seconds[REDONE]
    # Those that were interrupted in it would make a start look shorter than it is.
    starting = sum(total.starts) / max(len(total.starts), 1)
    # Each trial saves at its end, too.
    periodic = max(total.saves - sum(each.saved for each in total.interruptions) - done, 0)
    return Scenario(
        trials=trials,
        training_hours=finished.seconds[USEFUL] / max(done, 1) / HOUR,
        nodes=nodes,
        failures_per_1000_node_days=(len(struck) - saved) / (total.held_seconds * nodes) * 1000 * DAY,
        preempt_every_hours=total.held_seconds / saved / HOUR if saved else math.inf,
        save_seconds=total.seconds[SAVING] / max(total.saves, 1),
        restart_seconds=starting + total.seconds[IDLE] / max(launches, 1),
        queue_seconds=sum(each.queue_seconds for each in struck) / max(sum(each.is_followed for each in struck), 1),
        evaluation_share=total.seconds[EVALUATION] / training,
        interval=training / periodic / 60 if periodic else training / max(done, 1) / 60,
    )


def _launch(scenario: Scenario, draw: np.random.Generator, tally: Tally, trial: Any, left: Seconds) -> Seconds:
    """One launch of each of these trials; what is left for them to train and to evaluate, which go hand in hand."""
    restart, save, interval = _round(scenario)
    rate = scenario.failure_rate + scenario.preemption_rate
    struck = draw.exponential(1 / rate, len(trial)) if rate else np.full(len(trial), np.inf)
    is_preempted = draw.random(len(trial)) < (scenario.preemption_rate / rate if rate else 0)
    saves = np.ceil(left / interval)
    is_done = struck >= restart + left + saves * save

    working = np.maximum(struck - restart, 0.0)
    rounds = np.floor(np.where(is_done, 0, working) / (interval + save))
    rest = np.where(is_done, 0, working) - rounds * (interval + save)
    # The last interval of a trial is a shorter one.
    trained = np.minimum(rounds * interval + np.minimum(rest, interval), left)
    saving = working - trained
    saves_at_once = is_preempted & scenario.is_graceful & ~is_done & (trained > 0)
    kept = np.where(is_done, left, np.where(saves_at_once, trained, np.minimum(rounds * interval, trained)))
    last = np.where(saves_at_once, save - np.clip(rest - interval, 0, save), 0)

    tally.add("restarting", trial, np.minimum(struck, restart))
    tally.add("useful", trial, kept / scenario.pace)
    tally.add("evaluation", trial, kept - kept / scenario.pace)
    tally.add("redone", trial, np.where(is_done, 0, trained - kept))
    tally.add("saving", trial, np.where(is_done, saves * save, saving + last))
    tally.add("queue", trial, np.where(is_done, 0, scenario.queue_seconds))
    tally.add("failures", trial, ~is_done & ~is_preempted)
    tally.add("preemptions", trial, ~is_done & is_preempted)
    tally.add("saves", trial, np.where(is_done, saves, rounds + saves_at_once))
    return np.where(is_done, 0.0, left - kept)


def _round(scenario: Scenario) -> tuple[float, float, float]:
    """Seconds of a restart, of a save, and between two saves."""
    return scenario.restart_seconds, scenario.save_seconds, scenario.interval_seconds * scenario.pace


def _fill_pool(scenario: Scenario, tally: Tally) -> Seconds:
    """First come, first served: by repetition, the seconds that trials wait for nodes, and those to the last end."""
    places = scenario.trials if scenario.pool is None else scenario.pool // scenario.nodes
    ends = []
    for held, queued in zip(tally.held, tally.values["queue"], strict=True):
        free, waited, last = [0.0] * min(places, scenario.trials), 0.0, 0.0
        for seconds, wait in zip(held.tolist(), queued.tolist(), strict=True):
            waited += free[0]
            last = max(last, free[0] + seconds + wait)
            heapq.heapreplace(free, free[0] + seconds)
        ends.append((waited, last))
    return np.array(ends)


def best_interval_seconds(save_seconds: float, mtti_seconds: float) -> float:
    """Young's interval of training between two checkpoints, sqrt(2 * save * MTTI), with Daly's correction.

    LEAST_INTERVAL_SECONDS at least.
    """
    if save_seconds >= 2 * mtti_seconds:
        return max(mtti_seconds, LEAST_INTERVAL_SECONDS)
    part = math.sqrt(save_seconds / (2 * mtti_seconds))
    best = math.sqrt(2 * save_seconds * mtti_seconds) * (1 + part / 3 + part * part / 9) - save_seconds
    return max(best, LEAST_INTERVAL_SECONDS)


def overhead(interval_seconds: float, save_seconds: float, mtti_seconds: float) -> float:
    """The share of the time that saving and redoing take together, to the first order."""
    return save_seconds / interval_seconds + interval_seconds / (2 * mtti_seconds)


def first_order_ratio(scenario: Scenario) -> float:
    """E[ETTR] of a long trial, (1 - rate * (restart + interval / 2)) / (1 + save / interval) (arXiv 2410.21680).

    A preemption that is given the time to save loses no half interval but one save.
    """
    restart, save, interval = _round(scenario)
    lost = scenario.loss_rate * (restart + interval / 2)
    if scenario.is_graceful:
        lost += scenario.preemption_rate * (restart + save)
    return (1 - lost) / (1 + save / interval) / scenario.pace


def exact_ratio(scenario: Scenario) -> float:
    """The same without its approximation: what a launch is expected to bring by what it is expected to take."""
    restart, save, interval = _round(scenario)
    rate = scenario.failure_rate + scenario.preemption_rate
    if not rate:
        return interval / (interval + save) / scenario.pace
    graceful = scenario.preemption_rate / rate if scenario.is_graceful else 0.0
    round_is_over = math.exp(-rate * (interval + save))
    begins = math.exp(-rate * restart)
    rounds = begins * round_is_over / -math.expm1(-rate * (interval + save))
    visits = begins / -math.expm1(-rate * (interval + save))
    in_training = visits * (-math.expm1(-rate * interval) / rate - interval * round_is_over)
    in_saving = visits * math.exp(-rate * interval) * (-math.expm1(-rate * save) / rate - save * math.exp(-rate * save))
    useful = interval * rounds + graceful * in_training
    return useful / (1 / rate + graceful * (begins * save - in_saving)) / scenario.pace
