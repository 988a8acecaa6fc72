"""However often sbatch has to be asked, a script is submitted once."""

import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import client, onebox, slurm
from runner.client import UnansweredError, ask, is_transient, pauses
from runner.errors import SubmissionError
from runner.onebox.daemon import pid
from runner.sbatch import find_jobs, submit_script
from tests.slurm_cluster import wait_for

TIMED_OUT = "Batch job submission failed: Socket timed out on send/recv operation"


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes stand-ins that come first on PATH; pauses are short."""
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(client, "FIRST_PAUSE_SECONDS", 0.01)

    def write(name: str, script: str) -> None:
        (folder / name).write_text(f"#!/bin/bash\necho {name} >> {tmp_path}/calls\n{script}\n")
        (folder / name).chmod(0o755)

    return write


def calls(tmp_path: Path, name: str) -> int:
    return (tmp_path / "calls").read_text().split().count(name)


def failing(times: int, tmp_path: Path, words: str = TIMED_OUT) -> str:
    """Lines that fail so many times, and then print 7."""
    count = f"$(grep -c sbatch {tmp_path}/calls)"
    return f'if [ {count} -le {times} ]; then echo "sbatch: error: {words}" >&2; exit 1; fi; echo 7'


@pytest.mark.parametrize("times", [0, 1, 4])
def test_sbatch_is_asked_again_until_it_answers(tools, tmp_path, times):
    tools("sbatch", failing(times, tmp_path))
    tools("squeue", "exit 0")
    assert submit_script(tmp_path / "array.sh") == "7"
    # After each failure Slurm is asked whether it has the job; after a success that follows one, whether it has two.
    assert (calls(tmp_path, "sbatch"), calls(tmp_path, "squeue") if times else 0) == (times + 1, times + (times > 0))


def test_what_timed_out_and_is_in_the_queue_is_not_sent_again(tools, tmp_path):
    script = tmp_path / "array.sh"
    tools("sbatch", failing(9, tmp_path))
    tools("squeue", f'echo "5_0|{tmp_path}/other.sh"; echo "12_0|{script}"; echo "12_1|{script}"')
    assert submit_script(script) == "12"
    assert calls(tmp_path, "sbatch") == 1


def test_of_two_that_got_there_the_later_is_cancelled(tools, tmp_path):
    script = tmp_path / "array.sh"
    tools("sbatch", failing(1, tmp_path))
    tools("squeue", f'[ $(grep -c squeue {tmp_path}/calls) -lt 2 ] || printf "5|{script}\\n7_0|{script}\\n"')
    tools("scancel", f'echo "$@" > {tmp_path}/cancelled')
    assert submit_script(script) == "7"
    assert (tmp_path / "cancelled").read_text() == "5\n"


def test_a_refusal_is_final(tools, tmp_path):
    tools("sbatch", failing(1, tmp_path, "Batch job submission failed: Invalid qos specification"))
    with pytest.raises(SubmissionError, match="sbatch: Invalid qos specification") as raised:
        submit_script(tmp_path / "array.sh")
    assert not isinstance(raised.value, UnansweredError) and calls(tmp_path, "sbatch") == 1


def test_patience_ends(tools, tmp_path):
    tools("sbatch", failing(99, tmp_path))
    tools("squeue", "exit 0")
    with pytest.raises(UnansweredError, match="Socket timed out"):
        submit_script(tmp_path / "array.sh", patience_seconds=0.2)


def test_where_nobody_says_whether_it_is_queued_it_is_not_sent_again(tools, tmp_path):
    tools("sbatch", failing(1, tmp_path))
    tools("squeue", 'echo "slurm_load_jobs error: Unable to contact slurm controller (connect failure)" >&2; exit 1')
    with pytest.raises(UnansweredError, match=r"squeue: .*Unable to contact slurm controller"):
        submit_script(tmp_path / "array.sh", patience_seconds=0.3)
    assert calls(tmp_path, "sbatch") == 1 and calls(tmp_path, "squeue") > 1


def test_questions_are_asked_again_too(tools, tmp_path):
    tools(
        "scontrol",
        f'[ $(grep -c scontrol {tmp_path}/calls) -gt 2 ] && echo "ClusterName = lab" && exit\n'
        'echo "slurm_load_ctl_conf error: Unable to contact slurm controller (connect failure)" >&2; exit 1',
    )
    assert slurm.show_config() == {"ClusterName": "lab"}
    with pytest.raises(UnansweredError):
        (tmp_path / "calls").unlink()
        ask("scontrol", "show", "config", patience_seconds=0)


def test_an_order_waits_for_a_controller_that_is_away_far_longer_than_a_question(tools, tmp_path, monkeypatch):
    """Without the order the job would be over, while somebody waits for the answer to a question."""
    clock = SimpleNamespace(now=0.0)
    clock.monotonic = lambda: clock.now
    clock.sleep = lambda seconds: setattr(clock, "now", clock.now + seconds)
    monkeypatch.setattr(client, "time", clock)
    monkeypatch.setattr(client, "FIRST_PAUSE_SECONDS", 1.0)
    tools("scontrol", 'echo "Unable to contact slurm controller (connect failure)" >&2; exit 1')
    waited = []
    for order in (lambda: slurm.requeue("7"), slurm.show_config):
        began = clock.now
        with pytest.raises(UnansweredError):
            order()
        waited.append(clock.now - began)
    assert waited[0] > slurm.ORDER_PATIENCE_SECONDS - client.LONGEST_PAUSE_SECONDS > 60
    assert waited[1] <= client.QUESTION_PATIENCE_SECONDS


@pytest.mark.parametrize(
    ("said", "transient"),
    [
        ("slurm_load_jobs error: Unable to contact slurm controller (connect failure)", True),
        (TIMED_OUT, True),
        ("sacct: error: Problem talking to the database: Connection refused", True),
        ("Zero Bytes were transmitted or received", True),
        ("Slurm backup controller in standby mode", True),
        ("Invalid partition name specified", False),
        ("Slurm accounting storage is disabled", False),
        ("fatal: Could not establish a configuration source", False),
    ],
)
def test_what_is_worth_another_try(said, transient):
    assert is_transient(said) is transient


@given(st.randoms(use_true_random=False))
def test_pauses_grow_to_a_cap_and_differ(random):
    drawn = [pause for pause, _ in zip(pauses(random), range(12), strict=False)]
    for number, pause in enumerate(drawn):
        whole = min(client.FIRST_PAUSE_SECONDS * 2**number, client.LONGEST_PAUSE_SECONDS)
        assert whole / 2 <= pause <= whole


def test_a_controller_that_stops_and_goes_on_gets_a_script_once(
    bare_slurm: onebox.Cluster, tools, tmp_path: Path
) -> None:
    """It reads what it was sent while it was stopped; the sender knows only that nobody answered."""
    controller = pid(bare_slurm, "slurmctld")
    assert controller is not None
    script = tmp_path / "array.sh"
    script.write_text("#!/bin/bash\n#SBATCH --hold --array=0-1 --output=/dev/null --chdir=/tmp\ntrue\n")
    real = shutil.which("sbatch", path=os.environ["PATH"].partition(":")[2])
    tools("sbatch", f'{real} "$@"; code=$?; kill -CONT {controller}; exit $code')
    os.kill(controller, signal.SIGSTOP)
    try:
        number = submit_script(script)
    finally:
        os.kill(controller, signal.SIGCONT)
    assert calls(tmp_path, "sbatch") >= 1
    assert wait_for(lambda: find_jobs(script, 5), 10, "the job to be seen") == [number]
    assert len(slurm.squeue([number])) == 2
