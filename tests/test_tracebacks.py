"""Failures in short: the frames that matter, the root of a chain, and equal ones once."""

import subprocess
import sys

import pytest

from runner.cli import run as cli
from runner.masking import format_error
from runner.status import Job, read_statuses
from runner.tracebacks import explain_failures, shorten
from tests.trials import end, make_trial, slurm_job, start

CHAINED = """\
rank 1 begins
[rank1]: Traceback (most recent call last):
[rank1]:   File "/home/u/env/lib/python3.11/site-packages/torch/nn/functional.py", line 12, in linear
[rank1]:     return input @ weight
[rank1]:            ~~~~~~^~~~~~~~
[rank1]: OSError: [Errno 28] No space left on device

[rank1]: The above exception was the direct cause of the following exception:

[rank1]: Traceback (most recent call last):
[rank1]:   File "/home/u/project/save.py", line 5, in save
[rank1]:     raise SaveError()
[rank1]: SaveError: could not save
Traceback (most recent call last):
  File "/x/other.py", line 1, in <module>
RuntimeError: of its peer, later
"""


def test_the_root_of_a_chain_and_what_it_became():
    assert shorten(CHAINED).splitlines() == [
        "torch/nn/functional.py:12 in linear",
        "    return input @ weight",
        "OSError: [Errno 28] No space left on device",
        "so SaveError: could not save",
    ]


def test_the_innermost_frames_and_a_long_message():
    def fail(depth):
        if depth:
            return fail(depth - 1)
        raise ValueError("\n".join(f"line {i}" for i in range(20)))

    with pytest.raises(ValueError, match="line 1") as caught:
        fail(9)
    lines = shorten(format_error(caught.value)).splitlines()
    assert lines[0].startswith("tests/test_tracebacks.py:") and lines[0].endswith(" in fail")
    assert [line for line in lines if line.startswith("tests/")] == lines[0:6:2]
    assert lines[6:] == ["ValueError: line 0", "line 1", "line 2", "line 3", "line 4"]


def test_what_python_itself_prints():
    code = "def f():\n    return (1\n        / 0)\nf()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert shorten(done.stderr).splitlines()[-2:] == ["<string>:2 in f", "ZeroDivisionError: division by zero"]
    assert shorten("no traceback here\n") == ""


def test_each_failure_of_a_sweep_once(tmp_path, capsys):
    head = 'Traceback (most recent call last):\n  File "/x/y.py", line 3, in f\n    f()\n'
    trace = f"{head}ValueError: https://u:hunter2@h\n"
    for i in range(6):
        failure = {"cause": "user code", "rank": 1, "error": f"rank 1: ValueError: {i}"}
        run = make_trial(tmp_path, f"same{i}", overrides={"seed": i}, job=slurm_job(f"7_{i}"), failure=failure)
        run.log(1, 1).write_text(f"step {i}\n{trace}step 8\n{trace.replace('ValueError', 'LaterError')}")
    lost = {"cause": "bad data", "rank": None, "error": "nothing else is known"}
    make_trial(tmp_path, "lost", job=slurm_job("7_9"), overrides={"seed": 10}, failure=lost)
    make_trial(tmp_path, "good", result={})
    requeued = [start(1), end(1, 5, "user code", requeue=True)]
    make_trial(tmp_path, "again", job={"cluster": "local", "job_id": "x", "pid": 1}, attempts=requeued)
    written = tmp_path / "written.txt"
    written.write_text(trace.replace("ValueError", "KeyError"))
    told = {"cause": "user code", "rank": 0, "error": "x", "traceback": str(written)}
    run = make_trial(tmp_path, "told", overrides={"seed": 11}, job=slurm_job("7_10"), failure=told)
    run.log(1, 0).write_text(trace)

    assert cli(["logs", "exp", "--failed", "--root", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    names = "same0 (seed=0), same1 (seed=1), same2 (seed=2), same3 (seed=3) and 2 more"
    assert out.startswith(f"{names}: user code\n  x/y.py:3 in f\n      f()\n  ValueError: ")
    assert out.count("in f\n") == 2 and "KeyError" in out and "LaterError" not in out and "hunter2" not in out
    assert "lost (seed=10): bad data\n  nothing else is known\n" in out
    assert out.endswith("1 requeued, 1 done, 8 failed\n")


def test_a_job_that_ended_without_a_word(tmp_path):
    run = make_trial(tmp_path, "oom", job=slurm_job("7_8"), attempts=[start(1)])
    run.log(1, 0).write_text("step 1\nslurmstepd: error: Detected 1 oom-kill event(s) in StepId=7.0.\nbye\n")
    mute = make_trial(tmp_path, "mute", job=slurm_job("7_8"), attempts=[start(1)])
    mute.log(1, 0).write_text("".join(f"step {i}\n" for i in range(9)))
    rows = read_statuses([run, mute], lambda ids: {"7_8": Job("ended", "Slurm: OUT_OF_MEMORY")})
    groups = {group.rows[0].trial: group.words for group in explain_failures(rows)}
    assert groups["oom"] == "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=7.0."
    assert groups["mute"] == "step 4\nstep 5\nstep 6\nstep 7\nstep 8"
