"""The life of a sweep on a real Slurm: planned, applied, edited and disturbed while it runs, ended as its file says."""

import json
import random
import signal
from collections import Counter
from pathlib import Path

import pytest

from runner import slurm as slurm_tools
from runner.errors import SubmissionError
from runner.files import read_json, read_rows
from runner.rundir import RunDir, find_trials
from runner.status import Row, read_statuses
from tests.experiments import run_cli, write_experiment
from tests.slurm_cluster import wait_for
from tests.slurm_trials import causes, job_of, job_state, preempt, ranks_of

STEPS = 200
GROUPS = {
    "data": {"limit": 96},
    "train": {"steps": STEPS, "max_grad_norm": None},
    "tracking": {"every_steps": 20},
    "checkpoint": {"every_steps": 40},
}
DIVERGES = {"optimizer.lr": 1e30}
EVENTS = ["preempt", "signal", "requeue", "kill", "cancel"]
PATIENCE_SECONDS = 900


def seeds(*numbers: int) -> list[dict]:
    return [{"train.seed": number} for number in numbers]


BEFORE = seeds(*range(40)) + [{**DIVERGES, "train.seed": seed} for seed in (0, 1)]
# Six waiting trials and the two mistakes are gone, eight are new.
AFTER = seeds(*range(34), *range(40, 48))


def write_sweep(folder: Path, cases: list[dict]) -> Path:
    return write_experiment(folder, sweep={"list": cases}, **GROUPS)


def rows_of(root: Path) -> list[Row]:
    return read_statuses(find_trials(root / "tiny"))


def done_of(root: Path) -> list[Row]:
    return [row for row in rows_of(root) if row.state == "done"]


def disturb(kind: str, row: Row, root: Path) -> bool:
    """Do to a running trial what a cluster or its user would; whether it came in time."""
    run = row.run
    ranks = ranks_of(run)
    if job_state(run) != "RUNNING" or not ranks:
        return False
    if kind == "preempt":
        preempt(run)
    elif kind == "requeue":
        try:
            slurm_tools.requeue(job_of(run))
        except SubmissionError:
            # Something else has moved it meanwhile.
            return False
    elif kind in ("signal", "kill"):
        ranks[0].send_signal(signal.SIGUSR2 if kind == "signal" else signal.SIGKILL)
    else:
        assert run_cli("cancel", f"tiny/{run.trial}", "--yes", "--root", root).returncode == 0
    return True


def lived_seconds(run: RunDir) -> float:
    """From submission to result; but for the time from the end of a trial, which nothing requeued, until its retry."""
    first, *later = (row["time"] for row in run.job_rows())
    ends = [row for row in run.attempt_rows() if row["event"] == "end"]
    last = [[end for end in ends if end["time"] < begin][-1] for begin in later]
    apart = sum(begin - end["time"] for begin, end in zip(later, last, strict=True) if not end["requeue"])
    return run.result.stat().st_mtime - first - apart


@pytest.mark.nightly
@pytest.mark.timeout(2 * PATIENCE_SECONDS)
def test_a_sweep_ends_as_its_last_file_says_whatever_happens_to_it(tmp_path, slurm, profile):
    profile.write_text(profile.read_text().replace("}", ", parallel: 5}").replace("memory_gb: 1.5", "memory_gb: 1"))
    root, plan, rng, counts = tmp_path / "runs", tmp_path / "plan.json", random.Random(7), Counter[str]()

    def runner(*words: object) -> str:
        done = run_cli(*words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    path = write_sweep(tmp_path, BEFORE)
    assert "42 new; 42 to submit" in runner("plan", path, "--on", profile, "--out", plan, "--root", root)
    runner("apply", plan, "--yes")
    wait_for(lambda: len(done_of(root)), 300, "the first trials to be done", until=lambda count: count >= 4)

    # Edited while it runs: what is gone and waits is cancelled with consent, what is new is added, nothing else moves.
    before = {row.trial: row.record.result for row in done_of(root)}
    path = write_sweep(tmp_path, AFTER)
    shown = runner("plan", path, "--on", profile, "--out", plan, "--root", root)
    assert "8 new" in shown and "gone" in shown
    runner("apply", plan, "--yes", "--prune")
    assert all(read_json(root / "tiny" / trial / "result.json") == result for trial, result in before.items())
    named = {
        item["trial"]
        for item in json.loads(runner("plan", path, "--on", profile, "--root", root, "--json"))["items"]
        if item["mark"] != "-"
    }
    assert len(named) == len(AFTER)

    struck: set[str] = set()

    def look() -> list[Row]:
        rows = [row for row in rows_of(root) if row.trial in named]
        running = [
            row for row in rows if row.state == "running" and row.trial not in struck and (row.record.step or 0) > 5
        ]
        if running and sum(counts.values()) < 12:
            kind = EVENTS[sum(counts.values()) % len(EVENTS)]
            row = rng.choice(running)
            if disturb(kind, row, root):
                counts[kind] += 1
                struck.add(row.trial)
        for row in rows:
            if row.state == "cancelled" and row.settled:
                runner("retry", f"tiny/{row.trial}", "--root", root)
        return rows

    rows = wait_for(look, PATIENCE_SECONDS, "the end", until=lambda rows: all(row.state == "done" for row in rows))
    assert len(rows) == len(AFTER) and set(counts) == set(EVENTS), counts
    assert f"{len(AFTER)} done" in runner("plan", path, "--on", profile, "--root", root).splitlines()[-1]
    assert "0 to submit" in runner("submit", path, "--on", profile, "--root", root)
    interrupted = 0
    for row in rows:
        assert causes(row.run).count("done") == 1, row.trial
        assert [each["step"] for each in read_rows(row.run.metrics)] == list(range(20, STEPS + 1, 20)), row.trial
        interrupted += row.attempts > 1
    assert interrupted >= 8
    ledgers = {
        each["trial"]: each for each in json.loads(runner("goodput", "tiny", "--json", "--root", root))["trials"]
    }
    for row in rows:
        ledger = ledgers[row.trial]
        assert sum(ledger["seconds"].values()) == pytest.approx(lived_seconds(row.run), rel=0.01), row.trial
        assert ledger["useful_steps"] == STEPS and len(ledger["interruptions"]) >= row.attempts - 1, row.trial
    # What the file does not name any more was done before, failed by itself, or never trained to its end.
    others = [row for row in rows_of(root) if row.trial not in named]
    assert {row.state for row in others} <= {"done", "failed", "cancelled"}
    assert {row.trial for row in others if row.state == "done"} <= before.keys() | struck | {
        row.trial for row in others if row.attempts
    }
    print(f"{len(rows)} trials done, each once, after {dict(counts)}; {len(others)} are gone from the file")
