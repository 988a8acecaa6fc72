"""A scenario from what was given and what a sweep measured, and its outcome as tables."""

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from rich.table import Table

from runner.errors import ConfigError
from runner.goodput import Account
from runner.ledger import add_up
from runner.simulate import KINDS, Estimate, Outcome, Scenario, exact_ratio, first_order_ratio, measured
from runner.tables import new_table

ENDLESS = ("preempt_every_hours", "grace_seconds")
"""Options that may be infinite: no preemption, or all the time for one."""


def make_scenario(accounts: Sequence[Account] | None, **given: Any) -> Scenario:
    """What is given, else what was measured, else the defaults. Raises: ConfigError, also where nothing has run."""
    base = Scenario()
    if accounts is not None:
        base = measure_sweep(accounts)
        if not base.training_hours and given.get("training_hours") is None:
            raise ConfigError(
                "--from: no trial of it is done, and so nobody knows how long one trains; add --steps-hours"
            )
    chosen = {name: value for name, value in given.items() if value is not None}
    for name, value in chosen.items():
        if value == math.inf and name not in ENDLESS:
            raise ConfigError(f"--{name.replace('training', 'steps').replace('_', '-')} inf: must be a finite number")
    if isinstance(interval := chosen.get("interval"), str):
        chosen["interval"] = _parse_interval(interval)
    return replace(base, **chosen)


def measure_sweep(accounts: Sequence[Account]) -> Scenario:
    """The scenario that the trials of a sweep are in. Raises: ConfigError where none has trained."""
    total = add_up(account.ledger for account in accounts)
    if not total.useful_steps:
        raise ConfigError("--from: no trial of it has trained yet")
    done = [account for account in accounts if account.row.state == "done"]
    return measured(
        total,
        add_up(account.ledger for account in done),
        trials=len(accounts),
        done=len(done),
        launches=sum(len(account.history.launches) for account in accounts),
        nodes=max(map(_count_nodes, accounts)),
    )


def _parse_interval(text: str) -> float | str:
    if text in ("auto", "young"):
        return text
    try:
        minutes = float(text)
    except ValueError:
        minutes = math.nan
    if not 0 < minutes < math.inf:
        raise ConfigError(f"--interval {text!r}: must be auto, young, or minutes above 0")
    return minutes


def _count_nodes(account: Account) -> int:
    """The nodes of a trial's last launch."""
    starts = [row for row in account.row.record.attempts if row["event"] == "start"]
    return max(1, len(set(starts[-1].get("nodes", ())))) if starts else 1


def forecast_as_json(scenario: Scenario, outcome: Outcome) -> dict[str, Any]:
    inputs = {name: None if value == math.inf else value for name, value in asdict(scenario).items()}
    return {
        "scenario": inputs | {"interval_seconds": scenario.interval_seconds},
        "outcome": asdict(outcome),
        "formulas": {"first_order": first_order_ratio(scenario), "exact": exact_ratio(scenario)},
    }


def forecast_tables(scenario: Scenario, outcome: Outcome) -> list[Table]:
    """The ratio beside the formulas, and what all trials cost together."""
    ratios = new_table(["effective training time ratio", "mean", "95 % of repetitions"])
    ratios.add_row("simulated", f"{outcome.ratio.mean:.4f}", _range(outcome.ratio, 4))
    with_queue = outcome.ratio_with_queue
    ratios.add_row("simulated, with the queue", f"{with_queue.mean:.4f}", _range(with_queue, 4))
    ratios.add_row("formula of the first order, for a long trial", f"{first_order_ratio(scenario):.4f}")
    ratios.add_row("expected, for a long trial", f"{exact_ratio(scenario):.4f}")
    cost, makespan = new_table(["all trials together", "mean", "95 % of repetitions"]), outcome.makespan_hours
    cost.add_row("node-hours", f"{outcome.node_hours.mean:,.1f}", _range(outcome.node_hours, 1))
    cost.add_row("hours to the end of the last", f"{makespan.mean:,.2f}", _range(makespan, 2))
    for kind in KINDS:
        cost.add_row(f"hours {kind}", f"{outcome.hours[kind]:,.2f}")
    cost.add_row("failures", f"{outcome.failures:,.1f}")
    cost.add_row("preemptions", f"{outcome.preemptions:,.1f}")
    launches = scenario.trials + outcome.failures + outcome.preemptions
    cost.add_row("launches an hour", f"{launches / makespan.mean:,.1f}")
    cost.add_row("checkpoints", f"{outcome.saves:,.0f}")
    cost.add_row("a checkpoint every", f"{scenario.interval_seconds / 60:,.2f} min of training")
    cost.add_row("a trial is interrupted every", f"{scenario.mtti_hours:,.2f} h")
    return [ratios, cost]


def _range(estimate: Estimate, digits: int) -> str:
    return f"{estimate.low:,.{digits}f} to {estimate.high:,.{digits}f}"
