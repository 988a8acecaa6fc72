"""The ledger of a sweep that is really interrupted, against the simulation: `python -m tests.benchmarks.bench_goodput`.

Trials run through the local queue. Each launch is interrupted after a random time, exponentially distributed, half of
the times by the signal of a preemption and half by kill -9. What that cost the ledger tells; the simulation is played
with the costs and rates of the ledger, and once more with the rates that were asked for.
"""

import argparse
import math
import random
import signal
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import yaml

from runner.attempt import Attempt, newest_token
from runner.forecast import measure_sweep
from runner.goodput import read_accounts
from runner.heartbeat import read_beats
from runner.ledger import Ledger, add_up
from runner.processes import age_seconds
from runner.rundir import RunDir, find_trials
from runner.simulate import DAY, HOUR, Outcome, exact_ratio, first_order_ratio, simulate
from runner.status import read_statuses
from tests.experiments import run_cli, write_experiment

LOOK_SECONDS = 0.1
PATIENCE_SECONDS = 3600
START_PATIENCE_SECONDS = 300
REPEATS = 200


@dataclass(frozen=True)
class Comparison:
    """Effective training time ratios: of the ledger, and simulated with its rates and with those asked for."""

    ledger: Ledger
    wall_error: float
    """The largest share by which the ledger of a trial misses the time from its submission to its result."""

    simulated: Outcome
    nominal: Outcome
    exact: float
    first_order: float


def compare(folder: Path, *, trials: int, steps: int, mean_starts: float, save_every_seconds: float) -> Comparison:
    """Run a sweep in `folder`; a launch lives `mean_starts` times what start-up takes, be the machine fast or slow."""
    root, site = folder / "runs", folder / "here.yaml"
    site.write_text(yaml.safe_dump({"cluster": "local", "parallel": 2, "max_failures": 1000}))
    path = write_experiment(
        folder,
        sweep={"seeds": list(range(trials))},
        data={"limit": 128},
        train={"steps": steps},
        tracking={"every_steps": 5},
        checkpoint={"every_minutes": save_every_seconds / 60},
    )
    done = run_cli("submit", path, "--on", site, "--root", root)
    assert done.returncode == 0, done.stderr
    runs = find_trials(root / "tiny")
    mean_seconds = mean_starts * _await_start_up_seconds(runs)
    _interrupt(runs, mean_seconds)
    accounts = read_accounts(read_statuses(runs), time.time())
    lived = {run.trial: run.result.stat().st_mtime - run.job_rows()[0]["time"] for run in runs}
    total = add_up(account.ledger for account in accounts)
    scenario = measure_sweep(accounts)
    half = 2 * mean_seconds
    nominal = replace(scenario, failures_per_1000_node_days=1000 * DAY / half, preempt_every_hours=half / HOUR)
    return Comparison(
        total,
        max(abs(account.ledger.wall_seconds / lived[account.row.trial] - 1) for account in accounts),
        simulate(scenario, REPEATS),
        simulate(nominal, REPEATS),
        exact_ratio(scenario),
        first_order_ratio(scenario),
    )


def _await_start_up_seconds(runs: list[RunDir]) -> float:
    """What start-up took the first launch of all."""
    deadline = time.monotonic() + START_PATIENCE_SECONDS
    while not (rows := [row for run in runs for row in run.attempt_rows()]):
        assert time.monotonic() < deadline, "no launch began"
        time.sleep(LOOK_SECONDS)
    return float(rows[0]["seconds"]["start_up"])


def _interrupt(runs: list[RunDir], mean_seconds: float) -> None:
    """Interrupt every launch after a random time since it began, until all trials are done."""
    draw, deadline = random.Random(0), time.monotonic() + PATIENCE_SECONDS
    due: dict[tuple[str, int], float] = {}
    while not all(run.result.exists() for run in runs):
        assert time.monotonic() < deadline, "the sweep did not come to its end"
        assert not any(run.failure.exists() for run in runs), "a trial was given up"
        time.sleep(LOOK_SECONDS)
        for run in runs:
            number = newest_token(run)
            process = _find_process(run, number) if number else None
            if process is None:
                continue
            # One that was to be struck before it could be seen is struck at once.
            began = time.monotonic() - age_seconds(process)
            moment = due.setdefault((run.trial, number), began + draw.expovariate(1 / mean_seconds))
            if time.monotonic() >= moment:
                due[run.trial, number] = math.inf
                process.send_signal(draw.choice([signal.SIGKILL, signal.SIGUSR2]))


def _find_process(run: RunDir, number: int) -> psutil.Process | None:
    """The rank of an attempt, by its heartbeat."""
    (beat,) = read_beats(Attempt(run, number), 1)
    with suppress(psutil.Error):
        process = psutil.Process(beat.pid)
        # A process id that was given to somebody else meanwhile is left alone.
        if beat.pid and "submitit.core._submit" in process.cmdline():
            return process
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--mean-starts", type=float, default=2.5, help="how long a launch lives, in start-ups")
    parser.add_argument("--save-every-seconds", type=float, default=3.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = compare(
            Path(folder),
            trials=given.trials,
            steps=given.steps,
            mean_starts=given.mean_starts,
            save_every_seconds=given.save_every_seconds,
        )
    total, saved = found.ledger, sum(each.saved for each in found.ledger.interruptions)
    print(f"{given.trials} trials, {len(total.interruptions)} interruptions, {saved} of them saved; seconds by kind:")
    print(", ".join(f"{kind} {value:.1f}" for kind, value in total.seconds.items()))
    print(f"ledgers miss the time from submission to result by at most {found.wall_error:.2%}")
    print(f"ETTR measured {total.ratio():.3f}")
    for name, outcome in (("with the rates measured", found.simulated), ("with those asked for", found.nominal)):
        ratio = outcome.ratio
        print(f"ETTR simulated {name}: {ratio.mean:.3f} ({ratio.low:.3f} to {ratio.high:.3f} in 95 %)")
    print(f"ETTR by the formulas, for a long trial: {found.exact:.3f}, to the first order {found.first_order:.3f}")


if __name__ == "__main__":
    main()
