"""The ledger as data: hand-made histories with known answers, and every random history sums to its wall time."""

import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.ledger import CLOCK, IDLE, KINDS, QUEUE, History, Launch, Reading, add_up, keep_account, lay_out


def reading(time: float, step: int, kind: str = "training", **seconds: float) -> Reading:
    return Reading(time, step, seconds, kind)


KILLED = Launch(
    attempt=1,
    start_step=0,
    readings=(
        reading(115, 0, "restoring", start_up=4, restoring=1),
        reading(137, 20, "saving", start_up=4, restoring=1, training=20, saving=2),
        reading(152, 35, start_up=4, restoring=1, training=35, saving=2),
    ),
    end=157.0,
    cause="killed",
    requeued=True,
    ranks=2,
)
"""Submitted at 100, launched at 110; saved step 20, was at step 35 when it left its last word, found dead 5 s later."""

DONE = Launch(
    attempt=2,
    start_step=20,
    readings=(
        reading(172, 20, "restoring", start_up=3, restoring=2),
        reading(192, 30, "evaluation", start_up=3, restoring=2, training=10, evaluation=10),
        reading(205, 40, "idle", start_up=3, restoring=2, training=20, evaluation=10, saving=2, idle=1),
    ),
    end=205.0,
    cause="done",
    ranks=2,
)
"""Launched at 167."""

HISTORY = History((100.0,), (KILLED, DONE), until=205.0)


def test_a_kill_between_two_checkpoints():
    ledger = keep_account(HISTORY)
    assert ledger.seconds == pytest.approx(
        {
            "useful": 20 + 20,
            "redone": 15,
            "saving": 4,
            "restoring": 3,
            "start_up": 7,
            "evaluation": 10,
            "queue": 10 + 10,
            "idle": 5 + 1,
        }
    )
    assert ledger.wall_seconds == pytest.approx(105) and ledger.held_seconds == pytest.approx(85)
    assert ledger.ratio() == pytest.approx(40 / 85) and ledger.ratio(with_queue=True) == pytest.approx(40 / 105)
    assert (ledger.useful_steps, ledger.redone_steps, ledger.saves, ledger.starts) == (40, 15, 1, (5, 5))
    (cost,) = ledger.interruptions
    assert (cost.attempt, cost.cause, cost.time, cost.saved, cost.redone_steps) == (1, "killed", 152, False, 15)
    parts = cost.redone_seconds, cost.idle_seconds, cost.queue_seconds, cost.restart_seconds
    assert parts == pytest.approx((15, 5, 10, 5)) and cost.seconds == pytest.approx(35)
    assert keep_account(HISTORY, per_rank=True).wall_seconds == pytest.approx(210)


def test_the_users_own_end_is_no_interruption_and_one_that_a_retry_followed_none_of_the_sites():
    crashed = replace(KILLED, cause="user code", requeued=False)
    assert keep_account(replace(HISTORY, launches=(crashed,), until=152.0)).interruptions == ()
    (mended,) = keep_account(replace(HISTORY, launches=(crashed, DONE))).interruptions
    assert mended.cause == "user code" and not mended.is_of_the_site
    struck = replace(KILLED, cause="node failure", requeued=False)
    (last,) = keep_account(replace(HISTORY, launches=(struck,), until=152.0)).interruptions
    assert last.is_of_the_site, "the one that used up its budget counts as those before it"
    (waiting,) = keep_account(replace(HISTORY, launches=(KILLED,), until=160.0, is_waiting=True)).interruptions
    assert waiting.cause == "killed" and waiting.is_of_the_site


def test_a_launch_that_saved_loses_nothing():
    left = reading(150, 30, "idle", start_up=4, restoring=1, training=30, saving=3, idle=2)
    preempted = replace(KILLED, readings=(*KILLED.readings[:1], left), end=150.0, cause="preempted", saved=True)
    ledger = keep_account(replace(HISTORY, launches=(preempted, replace(DONE, start_step=30))))
    assert ledger.seconds["redone"] == ledger.redone_steps == 0
    assert ledger.useful_steps == 40 and ledger.interruptions[0].saved
    assert ledger.interruptions[0].idle_seconds == pytest.approx(2)


def test_a_fresh_start_makes_everything_before_it_redone():
    ledger = keep_account(replace(HISTORY, launches=(KILLED, replace(DONE, start_step=0))))
    assert ledger.seconds["redone"] == pytest.approx(35) and ledger.redone_steps == 35 and ledger.useful_steps == 40


def test_a_checkpoint_that_could_not_be_read_makes_two_launches_redone():
    middle = Launch(2, (reading(170, 28, start_up=2, training=8),), 20, 171.0, "killed", requeued=True)
    last = replace(DONE, attempt=3, start_step=10, readings=tuple(replace(r, time=r.time + 10) for r in DONE.readings))
    ledger = keep_account(History((100.0,), (KILLED, middle, last), until=215.0))
    assert (ledger.useful_steps, ledger.redone_steps) == (10 + 30, 25 + 8)


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        (History((100.0,), (), until=130.0, is_waiting=True), {"queue": 30}),
        (History((100.0,), (Launch(end=130.0, cause="start-up failure"),), until=130.0), {"queue": 30}),
        (History((100.0,), (replace(KILLED, end=None),), until=152.0), {"useful": 35, "queue": 10}),
        (replace(HISTORY, launches=(KILLED,), until=170.0, is_waiting=True), {"queue": 23, "idle": 5, "redone": 0}),
        # Nobody waited from its failure to its next submission; then it was in the queue.
        (History((100.0, 160.0), (replace(KILLED, requeued=False), DONE), until=205.0), {"queue": 10 + 7, "idle": 6}),
        # The scheduler requeued it of its own accord.
        (replace(HISTORY, launches=(replace(KILLED, requeued=False), DONE)), {"queue": 20, "idle": 6}),
        # By hand, without a queue.
        (History((), (replace(KILLED, requeued=False), DONE), until=205.0), {"queue": 0, "idle": 6, "useful": 40}),
        # A node died, and the next launch wrote down the end of the one before.
        (replace(HISTORY, launches=(replace(KILLED, end=169.0), DONE)), {"queue": 10, "idle": 15 + 1}),
        # Nobody wrote it down; the trial was submitted again.
        (
            History((100.0, 160.0), (replace(KILLED, end=None, requeued=False), DONE), until=205.0),
            {"queue": 17, "idle": 9},
        ),
    ],
    ids=[
        "waits",
        "never began",
        "runs",
        "is requeued",
        "retried",
        "requeued by the scheduler",
        "by hand",
        "node died",
        "lost",
    ],
)
def test_other_histories(history, expected):
    seconds = keep_account(history).seconds
    assert {kind: seconds[kind] for kind in expected} == pytest.approx(expected)


def test_a_zombie_counts_until_the_next_launch_began():
    zombie = replace(
        KILLED, readings=(*KILLED.readings, reading(187, 70, start_up=4, restoring=1, training=70, saving=2))
    )
    assert keep_account(replace(HISTORY, launches=(zombie, DONE))).wall_seconds == pytest.approx(105)


def test_a_sighting_goes_on_from_the_clock():
    later = KILLED.readings[-1].later(155.0, 38)
    assert later.step == 38 and later.seconds["training"] == 38 and later.launched == KILLED.readings[0].launched
    assert KILLED.readings[0].later(116.0, 0).seconds["restoring"] == 2, "no step: it is where it was"


durations = st.floats(0, 1e4, allow_nan=False)


@st.composite
def histories(draw: st.DrawFn) -> History:
    """Any order of clocks, ends, requeues, gaps and submissions, with clocks that are off by a little."""
    at, step, launches, submissions = draw(durations), 0, [], [0.0]
    for number in range(1, draw(st.integers(0, 5)) + 1):
        start, seconds, readings = draw(st.integers(0, step)), dict.fromkeys(CLOCK, 0.0), []
        step, now = start, at
        for _ in range(draw(st.integers(0, 4))):
            for kind in CLOCK:
                seconds[kind] += (spent := draw(durations))
                now += spent
            step += draw(st.integers(0, 50))
            readings.append(Reading(now + draw(st.floats(0, 1)), step, dict(seconds), draw(st.sampled_from(CLOCK))))
        end = draw(st.none() | durations.map(lambda more, now=now: now + more))
        requeued = draw(st.booleans())
        launches.append(Launch(number, tuple(readings), start, end, "killed", requeued, ranks=draw(st.integers(1, 4))))
        at = (end or now) + draw(st.floats(-50, 1e4))
        if not requeued:
            submissions.append(at - draw(st.floats(0, 50)))
    until = at + draw(durations)
    return History(tuple(sorted(submissions)), tuple(launches), until, draw(st.booleans()))


@settings(max_examples=300)
@given(histories())
def test_every_history_sums_to_its_wall_time(history):
    spans = lay_out(history)
    ledger = keep_account(history)
    assert all(span.seconds >= 0 and span.kind in KINDS for span in spans)
    assert all(math.isfinite(span.steps) for span in spans)
    gaps = 0.0
    for before, after in itertools.pairwise(spans):
        if after.begin != before.end:
            assert after.begin > before.end, "no moment counts twice"
            assert after.begin in history.submissions, "a gap only where nobody waited"
            gaps += after.begin - before.end
    wall = spans[-1].end - spans[0].begin - gaps if spans else 0.0
    assert ledger.wall_seconds == pytest.approx(wall, rel=1e-9, abs=1e-6)
    assert add_up([ledger, ledger]).wall_seconds == pytest.approx(2 * wall, abs=1e-6)
    if spans and not gaps:
        assert spans[0].begin <= max(history.submissions[0], spans[0].begin) and spans[-1].end <= history.until + 1e-6
    steps = sum(span.steps for span in spans)
    assert ledger.useful_steps + ledger.redone_steps == pytest.approx(steps, abs=1)


def test_kinds_have_their_names():
    assert {*CLOCK, QUEUE} - {"training"} | {"useful", "redone"} == set(KINDS) and IDLE in CLOCK
