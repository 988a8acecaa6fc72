"""`runner goodput` of a trial that was really interrupted, of folders of every other fate, and its advice."""

import json
import os
import re
import signal
import time
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest

from runner.advice import Site, advise
from runner.attempt import Attempt, claim
from runner.cli import run as cli
from runner.files import append_row, read_json, read_rows, write_json
from runner.goodput import (
    COST_HEADS,
    LEDGER_HEADS,
    Account,
    cost_rows,
    costs_table,
    format_seconds,
    goodput_table,
    ledger_cells,
    read_accounts,
    read_history,
)
from runner.heartbeat import Pulse, read_beats, write_beat
from runner.ledger import KINDS, History, Interruption, Ledger, add_up, keep_account
from runner.profile import Profile
from runner.record import Record, read_record
from runner.rundir import RunDir, find_trials
from runner.status import Row, read_statuses
from runner.timeline import COLOURS, draw_timeline
from tests.benchmarks.bench_goodput import compare
from tests.experiments import run_cli, write_experiment
from tests.slurm_cluster import wait_for
from tests.test_live import drawn
from tests.test_local_queue import PATIENCE_SECONDS, SMALL, profile, starts, wait_for_step
from tests.trials import SUBMITTED, end, make_trial, slurm_job, start

PLANNED, EVERY = 260, 30


def wall_seconds(run: RunDir, until: float) -> float:
    return until - run.job_rows()[0]["time"]


@pytest.mark.slow
def test_a_trial_that_was_preempted_and_killed(tmp_path, capsys):
    root = tmp_path / "runs"
    groups = {
        **SMALL,
        "train": {"steps": PLANNED},
        "checkpoint": {"every_steps": EVERY},
        "tracking": {"every_steps": 1},
    }
    path = write_experiment(tmp_path, rehearse={"at_step": 60}, evaluate={"probes": ["knn"]}, **groups)
    assert run_cli("submit", path, "--on", profile(tmp_path), "--root", root).returncode == 0
    (run,) = find_trials(root / "tiny")
    wait_for(lambda: starts(run), PATIENCE_SECONDS, "the second attempt", until=lambda found: len(found) == 2)
    wait_for_step(run, starts(run)[1] + 2 * EVERY)
    (account,) = read_accounts(read_statuses([run]), now := time.time())
    assert account.ledger.wall_seconds == pytest.approx(wall_seconds(run, now), rel=0.01), "also while it runs"

    os.kill([row["pid"] for row in run.attempt_rows() if row["event"] == "start"][-1], signal.SIGKILL)
    wait_for(lambda: read_rows(run.attempts), PATIENCE_SECONDS, "its end", until=lambda rows: len(rows) == 4)
    seen = read_rows(run.metrics)
    wait_for(run.result.exists, PATIENCE_SECONDS, "the end")

    (account,) = read_accounts(read_statuses([run]), time.time())
    ledger, resumed = account.ledger, starts(run)[2]
    ended = run.result.stat().st_mtime
    assert ledger.wall_seconds == pytest.approx(wall_seconds(run, ended), rel=0.01), "of killed attempts, too"
    assert all(ledger.seconds[kind] > 0 for kind in KINDS)
    assert sum(read_json(run.result)["seconds"].values()) < ledger.held_seconds, "the killed attempt is not in it"

    lost = [row for row in seen if row["step"] > resumed]
    assert lost and {row["attempt"] for row in lost} == {2}
    assert (ledger.useful_steps, ledger.redone_steps) == (PLANNED, len(lost))
    (kept,) = [row for row in seen if row["step"] == resumed]
    # The checkpoint came between that row and the first that was lost.
    assert lost[-1]["time"] - lost[0]["time"] < ledger.seconds["redone"] < lost[-1]["time"] - kept["time"]
    preempted, killed = ledger.interruptions
    assert (preempted.cause, preempted.saved, preempted.redone_steps) == ("preempted", True, 0)
    assert (killed.cause, killed.saved, killed.redone_steps) == ("killed", False, len(lost))
    assert killed.time == pytest.approx(lost[-1]["time"]) and killed.restart_seconds > 0.1

    capsys.readouterr()
    assert cli(["goodput", "tiny", "--json", "--plot", str(tmp_path / "a.png"), "--root", str(root)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["total"]["seconds"] == pytest.approx(ledger.seconds) and len(document["trials"]) == 1
    assert any("start-up and restoring took" in line for line in document["advice"])
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert cli(["simulate", "--from", run.trial, "--trials", "8", "--repeats", "4", "--json", "--root", str(root)]) == 0
    scenario = json.loads(capsys.readouterr().out)["scenario"]
    assert scenario["trials"] == 8 and scenario["training_hours"] * 3600 == pytest.approx(ledger.seconds["useful"])
    assert cli(["plot", "tiny", "--kind", "timeline", "--out", str(tmp_path / "a.pdf"), "--root", str(root)]) == 0
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF") and capsys.readouterr().out
    assert cli(["goodput", "tiny", "--plot", str(tmp_path / "a.bmp"), "--root", str(root)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


MADE = {
    "waiting": ({}, "pending", {"queue": 100}),
    "done": (
        {"attempts": [start(1, at=10), end(1, 500, "done", at=60)], "result": {"test/knn_top1": 0.5}},
        "done",
        {"queue": 10, "useful": 50},
    ),
    "requeued": (
        {"attempts": [start(1, at=10), end(1, 100, "preempted", requeue=True, at=60, signal_to_saved_seconds=1.0)]},
        "requeued",
        {"queue": 10 + 40, "useful": 50},
    ),
    "about to begin": ({}, "running", {"queue": 100}),
    "killed, and no word but a row of metrics": (
        {"attempts": [start(1, at=10)], "metrics": [{"step": 40, "time": SUBMITTED + 50, "attempt": 1}]},
        "unknown",
        {"queue": 10, "useful": 40},
    ),
    "never began": (
        {"attempts": [end(1, None, "start-up failure", at=20, launch="7.0")], "failure": {"time": SUBMITTED + 20}},
        "failed",
        {"queue": 20},
    ),
    "cancelled while it waited": ({"cancelled": True}, "cancelled", {"queue": 30}),
}


@pytest.mark.parametrize("name", MADE)
def test_folders_without_a_clock(tmp_path, name):
    content, state, expected = MADE[name]
    run = make_trial(tmp_path, "a", job=slurm_job(), **content)
    if content.get("cancelled"):
        write_json(run.cancelled, {"time": SUBMITTED + 30})
    row = Row(run, read_record(run), state)
    ledger = keep_account(read_history(row, SUBMITTED + 100))
    assert ledger.seconds == pytest.approx(dict.fromkeys(KINDS, 0.0) | expected)
    (account,) = read_accounts([row], SUBMITTED + 100)
    total = add_up([account.ledger])
    assert goodput_table([account, account], total).row_count == 3
    assert costs_table(total.interruptions).row_count == len({each.cause for each in total.interruptions})
    draw_timeline(tmp_path / "a.svg", "a", [account])
    assert (tmp_path / "a.svg").stat().st_size > 1000
    assert set(COLOURS) == set(KINDS)


def test_a_launch_that_was_killed_while_it_started_up_counts(tmp_path):
    run = make_trial(tmp_path, "a", job=slurm_job())
    attempt, pulse = claim(run), Pulse(launched=(now := time.time()) - 20)
    write_beat(attempt, pulse.last, 60.0, pulse.read())
    ledger = keep_account(read_history(Row(run, read_record(run), "unknown"), now + 5))
    assert ledger.seconds["start_up"] == pytest.approx(20, abs=1)
    assert ledger.seconds["queue"] == pytest.approx(now - 20 - SUBMITTED, abs=1)


def test_a_launch_got_as_far_as_the_checkpoint_that_it_left(tmp_path):
    """Killed after a save, but before a heartbeat or a row of metrics of a later step: no row is taken back then."""
    attempts = [
        start(1, at=10),
        end(1, None, "killed", requeue=True, at=60, launch="7.0"),
        {**start(2, 100, at=70), "resumed_from": "step_00000100.00001"},
        end(2, 500, "done", at=470),
    ]
    metrics = [
        {"step": 95, "time": SUBMITTED + 57.5, "attempt": 1, "train/loss": 1.0},
        {"step": 105, "time": SUBMITTED + 75, "attempt": 2, "train/loss": 1.0},
    ]
    run = make_trial(tmp_path, "a", job=slurm_job(), attempts=attempts, metrics=metrics, result={"test/knn_top1": 0.5})
    (account,) = read_accounts([Row(run, read_record(run), "done")], SUBMITTED + 1000)
    assert (account.ledger.useful_steps, account.ledger.redone_steps) == (500, 0)
    # 95 steps took 47.5 s, so 5 more take 2.5 s: nothing is idle until the end is noticed.
    expected = {"queue": 10 + 10, "useful": 50 + 400}
    assert account.ledger.seconds == pytest.approx(dict.fromkeys(KINDS, 0.0) | expected)


def test_a_pulse_keeps_account_of_its_time(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("runner.heartbeat.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("runner.heartbeat.time.time", lambda: 1000.0 + clock[0])
    pulse = Pulse(launched=1090.0)
    course = ("build", 3), ("restore", 2), ("warm", 1), ("step", 1), ("backward", 4), ("evaluate", 2)
    course += ("evaluate.batch", 5), ("evaluate.end", 0), ("checkpoint", 6), ("step", 1), ("step.end", 2), ("leave", 9)
    for place, seconds in course:
        pulse.at(place)
        clock[0] += seconds
    expected = {"start_up": 10 + 3 + 1, "restoring": 2, "training": 8, "evaluation": 7, "saving": 6, "idle": 9}
    reading = pulse.read()
    assert reading.seconds == expected and reading.launched == 1090.0 and reading.kind == "idle"
    attempt = claim(RunDir(tmp_path))
    write_beat(attempt, pulse.last, 60.0, reading)
    (beat,) = read_beats(attempt, 1)
    assert beat.seconds == expected and beat.time == reading.time
    attempt.record_reading(reading)
    append_row(attempt.run.readings(1), {"torn": True}, sync=False)
    assert read_rows(attempt.run.readings(1))[0] == reading.as_row()
    Attempt(attempt.run, 7).record_reading(reading)  # nowhere to write: nothing happens


def interruption(cause: str = "killed", saved: bool = False, **seconds: float) -> Interruption:
    given = {"redone_seconds": 0.0, "idle_seconds": 0.0, "queue_seconds": 0.0, "restart_seconds": 0.0, **seconds}
    return Interruption(attempt=1, time=0.0, cause=cause, saved=saved, redone_steps=0, **given)


def ledger(*interruptions: Interruption, saves: int = 0, **seconds: float) -> Ledger:
    return Ledger(dict.fromkeys(KINDS, 0.0) | seconds, saves=saves, interruptions=interruptions)


HEALTHY = ledger(useful=36000, saving=40, start_up=60, saves=40)
SITE = Site(Profile(cluster="slurm", parallel=4, signal_lead_seconds=120), stop_seconds=20.0)


def test_no_terminal_is_so_narrow_that_it_cuts_a_number():
    total = ledger(interruption("preempted", saved=True), useful=36000, redone=300, start_up=88, evaluation=7200)
    cells = {*ledger_cells(total), *chain(*cost_rows(total.interruptions)), "9f5504a4c2", "done", "all"}
    heads = {"trial", "state", *LEDGER_HEADS, *COST_HEADS}
    row = Row(RunDir(Path("/x/exp/9f5504a4c2")), Record(), "done")
    accounts = [Account(row, History((), (), 0.0), total)] * 2
    for width in range(12, 200, 3):
        tables = goodput_table(accounts, total, width), costs_table(total.interruptions, width)
        for table, count in zip(tables, (14, 9), strict=True):
            head, *lines = drawn(table, width)
            lines, note = lines[: table.row_count], lines[table.row_count :]
            shown = [set(re.split(r"\s{2,}", line.strip())) for line in [head, *lines]]
            assert shown[0] <= heads and all(each <= cells for each in shown[1:]), (width, lines)
            assert bool(note) == (len(table.columns) < count)
    assert "ETTR" in "".join(drawn(goodput_table(accounts, total, 20), 20)), "the most important one comes first"
    assert re.search(r"no room for \w+, \w+: a wider", " ".join(drawn(costs_table(total.interruptions, 60), 60)))


@pytest.mark.parametrize(
    ("total", "site", "words"),
    [
        (HEALTHY, SITE, []),
        (ledger(), SITE, []),
        # 1 s a save, an interruption each hour: best every 85 s, and it was every 30 min.
        (
            ledger(*[interruption()] * 10, useful=32000, redone=4000, saving=20, saves=20),
            SITE,
            ["interval: a checkpoint came every 30.0 min .* one every 84 s .* take 2.4% of the time, not 25.0%"],
        ),
        (ledger(*[interruption()] * 2, useful=32000, redone=4000, saving=20, saves=20), SITE, []),
        # Four mistakes in the user's code, mended and retried, are no interruptions of the site's.
        (ledger(*[interruption("user code")] * 4, useful=32000, redone=4000, saving=20, saves=20), SITE, []),
        (HEALTHY, Site(SITE.profile, stop_seconds=90.0), ["signal_lead_seconds: 120 is short.*150 is safe"]),
        (
            ledger(interruption("preempted"), interruption("preempted", saved=True), useful=36000, redone=300),
            SITE,
            ["lead: for 1 of 2 preemptions .* up to 20.0 s.*raise signal_lead_seconds"],
        ),
        (
            replace(ledger(useful=60, start_up=40), starts=(20.0, 20.0)),
            SITE,
            ["packing: start-up and restoring took 40% .* 20 s in each of 2 launches that began"],
        ),
        (ledger(useful=600, queue=1800), SITE, ["packing: 75% of the wall time .*15.0 min a trial, and parallel=4"]),
        (ledger(useful=600, evaluation=400), SITE, ["evaluation: it took 40% of the time with nodes, training 60%"]),
        (
            ledger(interruption(idle_seconds=200), useful=600, idle=200),
            SITE,
            ["idle: 25% .*, 3.3 min, is of attempt 1"],
        ),
    ],
)
def test_advice_only_where_the_numbers_support_it(total, site, words):
    told = advise(total, site, trials=2)
    assert len(told) == len(words)
    for line, pattern in zip(told, words, strict=True):
        assert re.search(pattern, line) and "\n" not in line, line


def test_seconds_in_words():
    assert [format_seconds(value) for value in (0.04, 9.94, 12.4, 179, 180, 10800, 260000)] == [
        "0.0 s",
        "9.9 s",
        "12 s",
        "179 s",
        "3.0 min",
        "3.0 h",
        "3.0 d",
    ]


@pytest.mark.nightly
def test_a_sweep_that_is_really_interrupted_against_the_simulation(tmp_path):
    found = compare(tmp_path, trials=3, steps=3000, mean_starts=2.5, save_every_seconds=3)
    assert found.wall_error < 0.01 and len(found.ledger.interruptions) >= 5
    assert found.ledger.useful_steps == 3 * 3000
    ratio = found.simulated.ratio
    # 95 % of simulated sweeps lie in this range; the rest is for a machine that is not equally fast all the time.
    assert ratio.low - 0.03 < found.ledger.ratio() < ratio.high + 0.03
