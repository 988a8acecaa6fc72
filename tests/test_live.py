"""The live view: what is shown where there is too little room, how fast trials are, and when all will have ended."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from runner.attempt import Attempt
from runner.columns import Column, fit
from runner.files import append_row, write_json
from runner.heartbeat import Moment, write_beat
from runner.live import Sight, choose, live_view
from runner.pace import NO_PACE, Pace, Trail, expect_end, measure, read_beat, read_trail
from runner.record import Record, read_record
from runner.record_cache import RecordCache
from runner.rundir import RunDir
from runner.status import Job, Row, read_statuses
from runner.tables import draw_bar, draw_trend, format_clock, format_duration
from runner.watch import Watch, status_table
from tests.slurm_cluster import wait_for
from tests.trials import end, local_job, make_trial, slurm_job, start

HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


def sight(state, number=0, step=None, **more):
    row = Row(RunDir(Path(f"/x/exp/{state}{number}")), Record(step=step, attempts=[start(1)]), state, **more)
    return Sight(row, {}, Pace(step))


def drawn(group, width, height=50):
    """The lines of a view as a terminal of that size has them."""
    with open(os.devnull, "w") as nowhere:
        console = Console(width=width, height=height, file=nowhere, record=True)
        console.print(group)
        return console.export_text().splitlines()


def test_steps_of_a_second_are_those_of_the_present_attempt_up_to_the_heartbeat():
    trail = Trail(((100, 1000.0), (200, 1050.0)))
    assert measure(trail, None, 500, 1060.0) == Pace(200, 2.0, 140.0)
    assert measure(trail, (300, 1100.0), 500, 1100.0) == Pace(300, 2.0, 100.0)
    assert measure(trail, (150, 1020.0), 500, 1060.0).step == 200, "a heartbeat that is older than the rows"
    assert measure(trail, None, 500, 1250.0) == Pace(200, 0.5, 400.0), "silent for longer than it took: it stands still"
    assert measure(Trail(((0, 5.0),)), None, 500, 9.0) == Pace(0)
    assert measure(Trail(), None, 500, 9.0) == Pace()


def test_a_trail_is_read_from_rows_start_and_heartbeat(tmp_path):
    rows = [{"step": i, "time": 100.0 + i, "attempt": 1, "train/loss": 1.0} for i in (10, 20)]
    rows += [{"step": 30, "time": 900.0, "attempt": 2, "train/loss": 0.5}]
    attempts = [start(1), end(1, 20, "preempted", requeue=True), {**start(2, 20), "time": 800.0}]
    run = make_trial(tmp_path, "a", attempts=attempts, metrics=rows)
    record = read_record(run)
    assert read_trail(run, record) == Trail(((20, 800.0), (30, 900.0)), (1.0, 1.0, 0.5))
    assert read_beat(run, record) is None
    run.token(2).mkdir(parents=True)
    write_beat(Attempt(run, 2), Moment(7, "step", 45, time.monotonic()), 60.0)
    beat = read_beat(run, record)
    assert beat is not None and beat[0] == 45 and abs(time.time() - beat[1]) < 20
    assert read_trail(make_trial(tmp_path, "b", attempts=[start(1)]), Record()) == Trail()


def test_a_sweep_ends_when_as_many_go_on_running_at_a_time():
    running = [(Pace(0, 1.0, 100.0), 100), (Pace(50, 1.0, 50.0), 100)]
    assert expect_end(running, []) == 100
    assert expect_end(running, [(None, None)]) == 150, "after the one that ends first"
    assert expect_end(running, [(50, 100), (0, 300)]) == 400
    assert expect_end([*running, (Pace(), 100)], [(None, None)]) == 150, "what has no pace yet is typical"
    assert expect_end([(Pace(3), 100)], []) is None and expect_end([], [(0, 100)]) is None


@given(
    lefts=st.lists(st.integers(1, 50), min_size=1, max_size=5),
    waiting=st.lists(st.integers(1, 50), max_size=12),
)
def test_the_end_is_that_of_a_simulated_queue(lefts, waiting):
    found = expect_end([(Pace(0, 1.0, float(left)), left) for left in lefts], [(0, steps) for steps in waiting])
    slots, queue, clock = list(lefts), list(waiting), 0
    while any(slots) or queue:
        clock += 1
        slots = [max(left - 1, 0) for left in slots]
        slots = [queue.pop(0) if left == 0 and queue else left for left in slots]
    assert found == clock


def test_all_are_shown_in_order_where_there_is_room():
    sights = [sight("done"), sight("running"), sight("failed")]
    assert choose(sights, 3) == sights


def test_what_failed_and_what_runs_share_the_room():
    bad = [sight("failed", i) for i in range(9)] + [sight("pending", 100, blocked=True)]
    running = [sight("running", i, step=i) for i in range(9)]
    rest = [sight("pending", i) for i in range(9)] + [sight("done", i) for i in range(9)]
    shown = choose([*rest, *running, *bad], 8)
    assert [s.needs_attention for s in shown] == [True] * 4 + [False] * 4
    assert [s.step for s in shown[4:]] == [8, 7, 6, 5], "what is furthest comes first"
    assert choose([*rest, *bad], 12)[:10] == [bad[-1], *bad[:-1]], "of the blocked ones a few come first"
    assert choose([*rest, *running, *bad[:1]], 11) == [bad[0], *running[::-1], rest[0]]


def test_columns_of_least_weight_go_first():
    columns = [Column(f"h{w}", [Text("x" * 10)], w, least) for w, least in ((5, None), (1, None), (3, 4))]
    assert [(column.weight, room) for column, room in fit(columns, 40)] == [(5, 10), (1, 10), (3, 10)]
    assert [(column.weight, room) for column, room in fit(columns, 29)] == [(5, 10), (1, 10), (3, 5)]
    assert [(column.weight, room) for column, room in fit(columns, 27)] == [(5, 10), (3, 10)]
    assert [(column.weight, room) for column, room in fit(columns, 3)] == [(5, 10)]


@pytest.mark.parametrize("width", [30, 60, 100, 160])
def test_the_view_of_a_thousand_fits_the_terminal(width):
    now = time.time()
    states = ["pending"] * 500 + ["failed"] * 200 + ["running"] * 200 + ["done"] * 100
    note = "user code: rank 1: ValueError: [red] a long story " * 5
    sights = [sight(state, i, i % 500, note=note if state == "failed" else "") for i, state in enumerate(states)]
    lines = drawn(live_view(sights, "exp", width, 20, now), width)
    assert len(lines) == 19 and all(len(line) <= width for line in lines)
    shown = "\n".join(lines)
    assert lines[0].startswith("exp ") and lines[-1].startswith("and 500 pending, 193 ")
    assert ("[red]" in shown) == (width > 60) and "failed" in shown and "running" in shown
    ascii_only = drawn(live_view(sights, "exp", width, 20, now, unicode=False), width)
    assert "".join(ascii_only).replace("…", "").isascii()


@pytest.mark.parametrize("width", [60, 80, 100, 120])
def test_no_column_goes_while_another_comes(width):
    """A sweep from its submission to its end, with a failure on the way: what was shown once stays."""
    settings = [{"gamma": "0.5", "seed": str(seed)} for seed in range(3)]
    first, trails = [start(1)], tuple(float(x) for x in range(9))
    more = [start(1), end(1, 90, "preempted", requeue=True), start(2, 90)]
    pace = Pace(100, 123.456, 500_000.0)
    metric = {"test/linear_top1": 0.8375}

    def look(state, attempts=(), step=None, pace=NO_PACE, trend=(), note="", metrics=None):
        record = Record(step=step, attempts=list(attempts), metrics=metrics or {})
        rows = [Row(RunDir(Path(f"/x/exp/28c5f228c{i}")), record, state, note) for i in range(3)]
        sights = [Sight(row, own, pace, trend) for row, own in zip(rows, settings, strict=True)]
        return drawn(live_view(sights, "exp", width, 20, 0.0), width)[3].split()

    views = [
        look("running", first, 0),
        look("running", first, 100, pace, trails, metrics={"train/loss": 1.5}),
        look("running", more, 100, pace, trails, metrics=metric),
        look("failed", more, 100, note="user code: rank 1: ValueError: a long story", metrics=metric),
        look("requeued", more, 100, note="waits for its turn", metrics=metric),
    ]
    assert all(view[:3] == ["trial", "gamma", "seed"] for view in views)
    often = [{head for head in view if head not in ("train/loss", *metric)} for view in views]
    assert often[0] <= often[1] and often[3] <= often[2] and often[4] <= often[2]
    assert often[0] >= {"trial", "gamma", "seed", "state", "step"}
    has_metric = [bool({"train/loss", *metric} & set(view)) for view in views[1:]]
    assert len(set(has_metric)) == 1 and has_metric[0] == (width > 80)


def test_words_and_pictures():
    assert [draw_bar(part, 4) for part in (0, 0.5, 0.53, 1)] == ["░░░░", "██░░", "██▏░", "████"]
    assert draw_bar(0.5, 4, unicode=False) == "##--"
    assert draw_trend([0, 1, 2, 3, 4, 5, 6, 7], 12) == "▁▂▃▄▅▆▇█"
    assert draw_trend([9, 1.0, float("nan"), 2.0], 2) == "▁█" and draw_trend([1.0], 9) == ""
    assert [format_duration(s) for s in (5, 190, 7500, 100_000)] == ["5 s", "3 min", "2 h 5 min", "1 d 3 h"]
    noon = time.mktime((2026, 11, 26, 12, 0, 0, 0, 0, -1))
    clocks = [format_clock(noon + hours * 3600, noon) for hours in (5, 24, 24 * 30)]
    assert clocks == ["17:00", "Fri 12:00", "2026-12-26"]


def test_a_narrow_terminal_keeps_what_matters(tmp_path):
    overrides = {"optimizer": {"lr": 0.1}, "method": {"gamma": 0.5}}
    runs = [
        make_trial(tmp_path, "a1b2c3d4", overrides=overrides, job=slurm_job("7_0"), attempts=[start(1)]),
        make_trial(tmp_path, "b1b2c3d4", failure={"cause": "user code", "rank": 1, "error": "ValueError: no"}),
    ]
    rows = read_statuses(runs, lambda ids: {"7_0": Job("running")})
    lines = drawn(status_table(rows, 60), 60)
    assert "trial" in lines[0] and "state" in lines[0] and "step" in lines[0] and "job" not in lines[0]
    assert any("user code: ValueError" in line for line in lines) and max(map(len, lines)) <= 60
    assert "no room for method, lr, gamma, attempts, job, updated" in " ".join(lines)
    assert not any("no room" in line for line in drawn(status_table(rows), 200))


def age(run, seconds=60.0):
    """As if nothing had changed for a while."""
    for path in [run.path, *run.path.rglob("*")]:
        os.utime(path, (time.time() - seconds,) * 2)


def test_only_what_has_changed_is_read_again(tmp_path):
    running = make_trial(tmp_path, "a", job=slurm_job("7_0"), attempts=[start(1)], checkpoints=["step_00000010.00001"])
    done = make_trial(tmp_path, "b", job=slurm_job("7_1"), result={})
    read = RecordCache()
    for run in (running, done):
        age(run)
    first = [read(run) for run in (running, done)]
    assert [read(run) for run in (running, done)] == first and read.reads == 2
    assert read(running) is first[0]

    append_row(running.metrics, {"step": 20, "time": 1.0, "attempt": 1, "train/loss": 1.0})
    assert read(running).step == 20 and read.reads == 3
    assert read(running).step == 20 and read.reads == 4, "what has changed just now may change within the same tick"
    age(running)
    read(running)
    for change in (
        lambda: append_row(running.attempts, end(1, 30, "preempted", requeue=True)),
        lambda: append_row(running.jobs, {"time": 5.0, **slurm_job("8_0")}),
        lambda: write_json(running.cancelled, {"time": 1.0}),
        lambda: append_row(running.attempts, end(2, 40, "cancelled")),
    ):
        age(running)
        before = read(running)
        change()
        assert read(running) != before == read_record(running) or read(running) == read_record(running) != before
    os.rename(done.result, done.result.with_suffix(".aside"))
    assert read(done).result is None


def test_a_watch_knows_how_fast_what_runs_is(tmp_path):
    now = time.time()
    rows = [{"step": i, "time": now - 100 + i, "attempt": 1, "train/loss": 100.0 - i} for i in range(0, 100, 10)]
    begun = [{**start(1), "time": now - 100}]
    run = make_trial(tmp_path, "a", job=slurm_job("7_0"), attempts=begun, metrics=rows, overrides={"lr": 0.1})
    other = make_trial(tmp_path, "b", job=slurm_job("7_1"), overrides={"lr": 0.2})
    watch = Watch([run, other], lambda ids: {"7_0": Job("running"), "7_1": Job("waiting", "Priority")})
    first, second = watch.sights(watch.refresh(), now)
    assert first.pace.step == 90 and first.pace.rate == pytest.approx(1.0) and first.settings == {"lr": "0.1"}
    assert first.trend == tuple(100.0 - i for i in range(0, 100, 10)) and second.pace.rate is None
    lines = drawn(live_view([first, second], "exp", 140, 20, now), 140)
    assert "0 of 2 done" in lines[0] and "steps/s" in lines[1] and "ends about" in lines[1]
    assert "█▇" in "\n".join(lines) and "90/500" in "\n".join(lines)


def read_until(descriptor: int, seen: bytearray, text: str) -> None:
    """Read what a terminal shows until it has shown a text."""

    def look() -> str:
        # A terminal that nobody writes to any more has an error instead of an end.
        with suppress(OSError):
            if select.select([descriptor], [], [], 0)[0]:
                seen.extend(os.read(descriptor, 65536))
        return seen.decode(errors="replace")

    wait_for(look, 60, text, until=lambda shown: text in shown)


def test_in_a_terminal_it_is_live_and_ctrl_c_leaves_cleanly(tmp_path):
    own = psutil.Process()
    job = local_job(own.pid, own.create_time())
    run = make_trial(tmp_path, "abc123", job=job, attempts=[start(1)])
    command = [sys.executable, "-m", "runner", "status", "exp", "--watch", "--root", str(tmp_path)]
    near, far = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "24", "PYTHONIOENCODING": "utf-8"}
    process = subprocess.Popen(command, stdin=far, stdout=far, stderr=far, env=environment, start_new_session=True)
    os.close(far)
    seen = bytearray()
    try:
        read_until(near, seen, "running")
        append_row(run.metrics, {"step": 123, "time": time.time(), "attempt": 1, "test/knn_top1": 0.75})
        read_until(near, seen, "123/500")
        process.send_signal(signal.SIGINT)
        read_until(near, seen, SHOW_CURSOR)
        assert process.wait(30) == 130
    finally:
        process.kill()
        os.close(near)
    shown = seen.decode()
    assert "Traceback" not in shown and "test/knn_top1" in shown and "0.75" in shown
    assert shown.rfind(SHOW_CURSOR) > shown.rfind(HIDE_CURSOR) >= 0
