"""The process of a mirror: what it gives to whatever is at its other end, and when it stops."""

import subprocess
import sys
import threading

import pytest

import runner.mirrors
from runner.attempt import claim
from runner.config import TrackingConfig
from runner.files import read_rows
from runner.mirror import follow, mirror
from runner.tracking import Tracker
from tests.experiments import prepare_run
from tests.mirrors.test_wandb import write_rows

THIRD = '''
"""A third mirror, in one file."""

from runner.schema import Options


class Config(Options):
    prefix: str = ""
    """Of each line."""


class Lines:
    next_step = 10

    def __init__(self, path, prefix):
        self.file, self.prefix = path.open("w"), prefix

    def write(self, row):
        print(self.prefix, row.step, row.time, row.metrics, file=self.file)

    def close(self, end):
        print(end, file=self.file)
        self.file.close()


def open_sink(run, trial, config):
    return Lines(run.path / "lines.txt", config.prefix)
'''


def over() -> threading.Event:
    """A trainer that has ended."""
    ended = threading.Event()
    ended.set()
    return ended


@pytest.fixture
def third(tmp_path):
    (tmp_path / "made_up_lines.py").write_text(THIRD)
    runner.mirrors.__path__.append(str(tmp_path))
    yield
    runner.mirrors.__path__.remove(str(tmp_path))


def test_a_third_mirror_is_one_file(tmp_path, third):
    run = prepare_run(tmp_path / "1", tracking={"made_up_lines": {"prefix": ">"}})
    write_rows(run, range(5, 20, 5), 1)
    mirror("made_up_lines", run, 1, over())
    assert (run.path / "lines.txt").read_text().splitlines() == [
        "> 10 1000000010.0 {'train/loss': 0.1}",
        f"> 15 1000000015.0 {{'train/loss': {1 / 15}}}",
        "interrupted",
    ]


def test_rows_are_followed_over_attempts_but_not_into_the_next(tmp_path):
    run = prepare_run(tmp_path)
    claim(run)
    ended = threading.Event()
    rows = follow(run.metrics, 1, ended)
    write_rows(run, range(5, 15, 5), 1)
    assert [next(rows).step, next(rows).step] == [5, 10]
    with run.metrics.open("a") as file:
        file.write('{"step": 15, "ti')
    Tracker(claim(run), TrackingConfig()).begin(5)
    write_rows(run, range(10, 25, 5), 2)
    ended.set()
    assert list(rows) == [], "the file of the newer attempt is for its own mirror"
    assert [row.step for row in follow(run.metrics, 2, ended)] == [5, 10, 15, 20]
    assert [row.step for row in follow(run.metrics, 1, ended)] == [5]
    assert list(follow(run.path / "absent", 1, ended)) == []
    assert len(read_rows(run.metrics)) == 4


@pytest.mark.slow
def test_a_mirror_that_cannot_be_opened_tries_again_and_tells(tmp_path):
    run = prepare_run(tmp_path, tracking={"tensorboard": {}})
    (run.path / "tensorboard").write_text("in the way")
    command = [sys.executable, "-m", "runner.mirror", "tensorboard", str(run.path), "1", "2"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    words = done.stdout.splitlines()
    assert done.returncode == 1 and len(words) == 2, done.stderr
    assert words[0].startswith("runner: mirror tensorboard tries again: FileExistsError: ")
    assert words[1].startswith("runner: mirror tensorboard stopped, metrics.jsonl goes on: FileExistsError: ")
