"""What a trial loses when it is interrupted, beside five other systems.

python -m tests.benchmarks.bench_rivals [CELL ...]

A real Slurm of this machine's own (KillWait 4 s, requeue delay 6 s), two gloo ranks, and the work that the others
were measured with: an MLP 32-128-10 with dropout 0.2, Adam, 1,600 shuffled samples, batches of 8 on each rank, 400
steps of a tenth of a second, a periodic save every 100 steps. The runner is as it ships: data, encoder and method are
three plug-ins in a copy of the package. Steps are counted by what the method itself logs, on each rank.
"""

import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from runner import onebox, slurm
from runner.files import read_json, read_rows
from runner.onebox.cluster import Cluster
from runner.onebox.events import node_names, preempt, rank_processes
from runner.onebox.private import private_cluster
from runner.rehearsal import compare
from runner.rundir import RunDir, find_trials
from tests.benchmarks.rival_cells import CELLS as RIVALS
from tests.benchmarks.rival_cells import SYSTEMS
from tests.slurm_cluster import wait_for

STEPS, SAVE_EVERY, STRUCK_AT = 400, 100, 150
PATIENCE_SECONDS = 300.0
EXPERIMENT: dict[str, Any] = {
    "name": "rivals",
    "method": {"name": "slow_classifier"},
    "encoder": {"name": "dropout_mlp"},
    "data": {"name": "noise_vectors"},
    "optimizer": {"name": "adam", "lr": 1e-3},
    "train": {"epochs": 4, "batch_size": 16},
    "checkpoint": {"every_steps": SAVE_EVERY},
    "tracking": {"every_steps": 1},
    "resources": {"ranks": 2},
}
PROFILE = "{cluster: slurm, partition: low, time_minutes: 30, memory_gb: 1.5, signal_lead_seconds: 60}"


@dataclass(frozen=True)
class Cell:
    """One kind of interruption."""

    told: str
    strikes: tuple[tuple[str, float, str], ...]
    """What is waited for (a `step` of rank 0, or seconds since the job is `running`), how many, what happens then.

    Not before there is a rank for it to happen to.
    """

    grace_seconds: int = 8
    user_signal: bool = True
    cancelled: bool = False
    """It should not come back."""


CELLS = {
    "a": Cell("preemption, user signal, grace 8 s", (("step", STRUCK_AT, "preempt"),)),
    "a30": Cell("the same, grace 30 s", (("step", STRUCK_AT, "preempt"),), grace_seconds=30),
    "b": Cell("preemption, TERM alone, grace 8 s", (("step", STRUCK_AT, "preempt"),), user_signal=False),
    "b30": Cell("the same, grace 30 s", (("step", STRUCK_AT, "preempt"),), grace_seconds=30, user_signal=False),
    "c": Cell("signal 1.5 s after RUNNING", (("running", 1.5, "signal"),)),
    "c0.2": Cell("signal 0.2 s after RUNNING", (("running", 0.2, "signal"),)),
    "d": Cell("scontrol requeue", (("step", STRUCK_AT, "requeue"),)),
    "e": Cell("kill -9 of rank 1", (("step", STRUCK_AT, "kill"),)),
    "f": Cell("scancel", (("step", STRUCK_AT, "cancel"),), cancelled=True),
    "early": Cell("preemption at step 50, before the first periodic save", (("step", 50, "preempt"),)),
    "twice": Cell(
        "preemption, then scontrol requeue at 351", (("step", STRUCK_AT, "preempt"), ("step", 351, "requeue"))
    ),
}


UNINTERRUPTED = Cell("uninterrupted", ())


@dataclass(frozen=True)
class Passage:
    """How the trial came through one event; seconds are from the event on."""

    resumed_step: int | None
    left_step: int
    """What rank 0 logged last."""

    repeated_steps: int
    saved_seconds: float | None
    running_seconds: float | None
    first_step_seconds: float | None
    new_step_seconds: float | None


@dataclass(frozen=True)
class Outcome:
    """How a cell ended."""

    state: str
    """`done`, what Slurm calls the job, or that nothing happened for PATIENCE_SECONDS."""

    restarts: int
    passages: tuple[Passage, ...]
    differences: tuple[str, ...]
    """Between the trial and the uninterrupted one: metrics, final state, batches."""

    seconds: float

    @property
    def summary(self) -> str:
        """Back by itself / step it resumed after / steps lost and repeated / final weights."""
        if self.state != "done":
            return self.state
        resumed = ", ".join(str(passage.resumed_step) for passage in self.passages)
        lost = ", ".join(str(passage.left_step - (passage.resumed_step or 0)) for passage in self.passages)
        return f"yes / {resumed} / {lost} / {'differs' if self.differences else 'bitwise'}"


class Work:
    """The experiment, a copy of the package that has it, and the folder of one trial."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "log"
        here = Path(__file__).parent
        shutil.copytree(here.parents[1] / "runner", folder / "runner", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(here / "rival_plug_ins", folder / "runner", dirs_exist_ok=True)
        self.log.mkdir()
        (folder / "site.yaml").write_text(PROFILE)
        method = {**EXPERIMENT["method"], "log": str(self.log)}
        (folder / "rivals.yaml").write_text(yaml.safe_dump({**EXPERIMENT, "method": method}))

    def submit(self) -> RunDir:
        words = ["submit", "rivals.yaml", "--on", "site.yaml", "--root", "runs"]
        # From the folder: `python -m` and the job look for the package there first.
        done = subprocess.run([sys.executable, "-m", "runner", *words], cwd=self.folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        (run,) = find_trials(self.folder / "runs" / "rivals")
        return run

    def rows(self, rank: int = 0) -> list[dict[str, Any]]:
        """What a rank logged: a row for each step it did."""
        return read_rows(self.log / f"rank_{rank}.jsonl")


def job_of(run: RunDir) -> str:
    return str(run.job_rows()[-1]["job_id"])


def fact(run: RunDir, name: str) -> str:
    return slurm.show_job(job_of(run)).get(name, "")


def is_over(run: RunDir) -> bool:
    if run.result.exists() or run.failure.exists():
        return True
    return fact(run, "JobState") in ("CANCELLED", "FAILED", "COMPLETED", "TIMEOUT", "NODE_FAIL")


def wait(look: Callable[[], Any], what: str) -> Any:
    return wait_for(look, PATIENCE_SECONDS, what)


def wait_until(cluster: Cluster, work: Work, run: RunDir, unit: str, count: float) -> None:
    if unit == "step":
        wait(lambda: any(row["step"] >= count for row in work.rows()), f"step {count}")
    else:
        wait(lambda: fact(run, "JobState") == "RUNNING", "the job to run")
        time.sleep(count)
        # Where srun has not started a rank, a signal would reach nobody.
        wait(lambda: rank_processes(cluster, job_of(run)), "a process of a rank")


def strike(cluster: Cluster, run: RunDir, what: str) -> None:
    match what:
        case "preempt":
            preempt(cluster, node_names(cluster, job_of(run))[0])
        case "signal":
            subprocess.run(["scancel", "--signal=USR2", job_of(run)], check=True)
        case "requeue":
            slurm.requeue(job_of(run))
        case "kill":
            rank_processes(cluster, job_of(run))[1].send_signal(signal.SIGKILL)
        case "cancel":
            slurm.cancel([job_of(run)])


def look_after(work: Work, run: RunDir, restarts: int, struck: float) -> Passage:
    """Wait until the trial has done a new step after an event at unix second `struck`, or until it is over."""

    def runs_again() -> bool:
        job = slurm.show_job(job_of(run))
        return int(job.get("Restarts", 0)) > restarts and job.get("JobState") == "RUNNING"

    wait(lambda: runs_again() or is_over(run), "the job to run again")
    running_seconds = time.time() - struck if runs_again() else None
    old = {row["pid"] for row in work.rows() if row["time"] <= struck}

    def left() -> int:
        return max([row["step"] for row in work.rows() if row["pid"] in old], default=0)

    def new() -> list[dict[str, Any]]:
        return [row for row in work.rows() if row["pid"] not in old]

    wait(lambda: any(row["step"] > left() for row in new()) or is_over(run), "a new step")
    starts = [row for row in run.attempt_rows() if row["event"] == "start" and row["time"] > struck]
    done, reached = new(), left()
    further = [row["time"] - struck for row in done if row["step"] > reached]
    return Passage(
        resumed_step=starts[-1]["start_step"] if starts else None,
        left_step=reached,
        repeated_steps=len({row["step"] for row in done if row["step"] <= reached}),
        saved_seconds=first_save_after(run, struck),
        running_seconds=running_seconds,
        first_step_seconds=done[0]["time"] - struck if done else None,
        new_step_seconds=further[0] if further else None,
    )


def first_save_after(run: RunDir, struck: float) -> float | None:
    """Seconds until the attempt that was struck had saved on account of it."""
    ends = [row for row in run.attempt_rows() if row["event"] == "end" and row["time"] > struck]
    if not ends or ends[0].get("signal_to_saved_seconds") is None or not run.saved(ends[0]["attempt"]).exists():
        return None
    return run.saved(ends[0]["attempt"]).stat().st_mtime - struck


def play(cell: Cell, folder: Path, reference: tuple[Work, RunDir] | None) -> tuple[Outcome, Work, RunDir]:
    """Run one cell in a folder, on a cluster of its own, and hold the trial against the uninterrupted one."""
    began = time.monotonic()
    work = Work(folder)
    settings = {"nodes": 2, "gpus": 0, "accounting": False, "kill_wait_seconds": 4}
    with private_cluster(**settings, grace_seconds=cell.grace_seconds, user_signal=cell.user_signal) as cluster:
        run = work.submit()
        passages = []
        for unit, count, what in cell.strikes:
            wait_until(cluster, work, run, unit, count)
            restarts, struck = int(fact(run, "Restarts")), time.time()
            strike(cluster, run, what)
            passages.append(look_after(work, run, restarts, struck))
        wait(lambda: is_over(run), "the end")
        state = "done" if run.result.exists() else fact(run, "JobState")
        if cell.cancelled:
            wait(lambda: not rank_processes(cluster, job_of(run)), "the ranks to be gone")
        restarts = int(fact(run, "Restarts"))
    found = differences(work, run, *reference) if reference and state == "done" else []
    return Outcome(state, restarts, tuple(passages), tuple(found), time.monotonic() - began), work, run


def differences(work: Work, run: RunDir, reference: Work, other: RunDir) -> list[str]:
    """What tells an interrupted trial from the uninterrupted one."""
    found = compare(read_rows(run.metrics), read_rows(other.metrics), read_json(run.result), read_json(other.result))
    for rank in range(2):
        expected = {row["step"]: (row["batch"], row["loss"]) for row in reference.rows(rank)}
        rows = work.rows(rank)
        if {row["step"] for row in rows} != set(expected):
            found.append(f"rank {rank} did not do the same steps")
        found += [
            f"rank {rank} did step {row['step']} on another batch or with another loss"
            for row in rows
            if expected.get(row["step"]) != (row["batch"], row["loss"])
        ][:1]
    return found


def events_table(outcomes: dict[str, Outcome]) -> list[str]:
    """The runner beside the others, as Markdown."""
    lines = [f"| event | runner | {' | '.join(SYSTEMS)} |", f"|---|---|{'---|' * len(SYSTEMS)}"]
    for name, outcome in outcomes.items():
        cells = " | ".join(RIVALS[name])
        lines.append(f"| {name}. {CELLS[name].told} | **{outcome.summary}** | {cells} |")
    return lines


def times_table(outcomes: dict[str, Outcome]) -> list[str]:
    """The runner's seconds, as Markdown."""
    lines = [
        "| event | saved | RUNNING again | first step | next new step | steps repeated |",
        "|---|---|---|---|---|---|",
    ]
    for name, outcome in outcomes.items():
        for number, each in enumerate(outcome.passages):
            times = (each.saved_seconds, each.running_seconds, each.first_step_seconds, each.new_step_seconds)
            cells = " | ".join("" if seconds is None else f"{seconds:.2f}" for seconds in times)
            label = f"{name}, event {number + 1}" if len(outcome.passages) > 1 else name
            lines.append(f"| {label} | {cells} | {each.repeated_steps} |")
    return lines


def main(names: list[str]) -> None:
    if missing := onebox.missing_tools(accounting=False):
        print(f"{missing[0]} not found; get it with: runner onebox install")
        return
    outcomes = {}
    with tempfile.TemporaryDirectory(prefix="rivals-") as folder:
        outcome, work, run = play(UNINTERRUPTED, Path(folder) / "uninterrupted", None)
        assert outcome.state == "done", outcome.state
        print(f"uninterrupted: {outcome.seconds:.0f} s", flush=True)
        for name in names or CELLS:
            try:
                outcomes[name], _, _ = play(CELLS[name], Path(folder) / name, (work, run))
            except AssertionError as hung:
                outcomes[name] = Outcome("LOST: hung", 0, (), (str(hung),), PATIENCE_SECONDS)
            told = "".join(f"; {line}" for line in outcomes[name].differences)
            print(f"{name}: {outcomes[name].summary}{told} ({outcomes[name].seconds:.0f} s)", flush=True)
    print("\n".join(["", *events_table(outcomes), "", *times_table(outcomes)]))


if __name__ == "__main__":
    main(sys.argv[1:])
