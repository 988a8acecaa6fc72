"""Ctrl-C ends a command at once and without a traceback, also in the middle of its imports."""

import os
import signal
import subprocess
import sys

import psutil
import pytest

from tests.experiments import write_experiment

SWALLOWS = """
import os, signal
try:
    os.kill(os.getpid(), signal.SIGINT)
    while True:
        pass
except KeyboardInterrupt:
    pass
"""
"""A module that goes on when it is interrupted while it loads, as some with C++ in them do."""

IMPORTING = "import runner.interruption as i; i.end_at_once_in_imports(); import swallows; print('went on')"
WORKING = """
import os, signal, runner.interruption as i
i.end_at_once_in_imports()
try:
    os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    print('cleaned up')
"""


def run_python(code, folder, **options):
    environment = os.environ | {"PYTHONPATH": f"{folder}:{os.getcwd()}"}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=30, **options
    )


def test_in_an_import_it_ends_at_once_and_elsewhere_it_is_an_exception(tmp_path):
    (tmp_path / "swallows.py").write_text(SWALLOWS)
    done = run_python(IMPORTING, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")
    assert run_python(WORKING, tmp_path).stdout == "cleaned up\n"


def test_what_ignores_it_goes_on_ignoring_it(tmp_path):
    code = "import os, signal; signal.signal(signal.SIGINT, signal.SIG_IGN); import runner.__main__; "
    done = run_python(f"{code} os.kill(os.getpid(), signal.SIGINT); print('goes on')", tmp_path)
    assert done.stdout == "goes on\n", done.stderr


def test_the_handler_is_there_before_anything_heavy():
    code = "import sys, runner.interruption; sys.exit(bool({'typer', 'yaml', 'torch', 'typing'} & sys.modules.keys()))"
    assert (
        subprocess.run(
            [sys.executable, "-I", "-S", "-c", f"sys=__import__('sys'); sys.path.insert(0, {os.getcwd()!r}); {code}"]
        ).returncode
        == 0
    )


@pytest.mark.slow
@pytest.mark.ddp
def test_ranks_in_the_foreground_leave_with_their_command(tmp_path):
    path = write_experiment(tmp_path, train={"steps": 1_000_000}, resources={"ranks": 2})
    command = [sys.executable, "-m", "runner", "debug", str(path), "--root", str(tmp_path / "runs")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        for line in process.stdout:
            if line.startswith("step"):
                break
        family = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in out + err, err
    assert not psutil.wait_procs(family, 10)[1]
