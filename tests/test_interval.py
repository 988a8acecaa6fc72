"""The interval between checkpoints: Young's optimum within what a run may lose and what saving may cost."""

import math

import pytest

from runner.interval import (
    PRIOR_SECONDS,
    Interruptions,
    count_interruptions,
    is_news,
    mean_seconds_to_interruption,
    save_interval_seconds,
)
from tests.experiments import prepare_run, train_here
from tests.trials import end, start

HOUR = 3600.0


@pytest.mark.parametrize(
    ("every", "save", "mtti", "expected"),
    [
        # What a user says holds.
        (5.0, 60.0, HOUR, 300),
        (0.5, 0.0, HOUR, 30),
        # Only the share of saving counts while nothing is known of interruptions.
        ("auto", 0.01, 0, 60),
        ("auto", 2.0, 0, 200),
        ("auto", 60.0, 0, 900),
        # Young: sqrt(2 * 0.5 * 6 h), and a quarter of the time between interruptions halves it.
        ("auto", 0.5, 6 * HOUR, math.sqrt(6 * HOUR)),
        ("auto", 0.5, 1.5 * HOUR, math.sqrt(1.5 * HOUR)),
        # Interruptions as often as these would have saving take more than its share.
        ("auto", 2.0, HOUR / 2, 200),
        ("auto", 0.0, 6 * HOUR, 60),
        ("auto", 0.01, HOUR, 60),
        ("auto", 30.0, 100 * HOUR, 900),
    ],
)
def test_save_interval(every, save, mtti, expected):
    assert save_interval_seconds(every, save, mtti) == pytest.approx(expected)


@pytest.mark.parametrize("save", [0.3, 1.0])
@pytest.mark.parametrize("mtti", [3 * HOUR, 30 * HOUR])
def test_no_other_interval_loses_less(save, mtti):
    """Against a naive search: saving costs save / T, an interruption half of T on the average."""

    def lost_share(interval: float) -> float:
        return save / interval + interval / 2 / mtti

    best = min(range(60, 901), key=lost_share)
    found = save_interval_seconds("auto", save, mtti)
    assert lost_share(found) <= lost_share(best) * 1.001


def test_interruptions_are_ends_that_saved_nothing():
    rows = [
        start(1, at=0),
        end(1, 10, "preempted", True, at=100, signal_to_saved_seconds=0.2),
        start(2, at=5000),
        end(2, None, "killed", True, at=5060),
        # Nobody was left to write its end.
        start(3, at=6000),
        start(4, at=7000),
        end(4, 50, "time limit", True, at=7040, signal_to_saved_seconds=1.0),
        # A launch that had no attempt yet.
        end(4, None, "launch failed", True, at=8000),
    ]
    assert count_interruptions(rows) == Interruptions(unplanned=2, run_seconds=200.0)
    assert count_interruptions([]) == Interruptions()


def test_the_prior_gives_way_to_what_was_seen():
    assert mean_seconds_to_interruption(Interruptions(), 0) == PRIOR_SECONDS
    assert mean_seconds_to_interruption(Interruptions(9, 10 * HOUR), 4 * HOUR) == 2 * HOUR
    quiet = mean_seconds_to_interruption(Interruptions(0, 1000 * HOUR), 0)
    assert quiet == pytest.approx(1006 * HOUR)


@pytest.mark.parametrize(
    ("interval", "told", "news"), [(60, 60, False), (72, 60, False), (73, 60, True), (40, 60, True)]
)
def test_only_a_change_of_more_than_a_fifth_is_told(interval, told, news):
    assert is_news(interval, told) == news


def test_the_log_tells_of_it_once(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("runner.interval.MIN_SAVE_INTERVAL_SECONDS", 0.001)
    monkeypatch.setattr("runner.saving.mean_seconds_to_interruption", lambda *_: 1e-9)
    monkeypatch.setattr("runner.interval.MAX_LOST_SECONDS", 0.01)
    run = prepare_run(tmp_path, checkpoint={"every_steps": 2})
    train_here(run)
    # The first save costs more than the bound allows; those after it come to the same interval.
    assert capsys.readouterr().out.count("runner: a checkpoint every 0 s: one costs ") == 1
