"""What runner.slurm reads out of Slurm's answers: captured texts first, then a real Slurm."""

import time

import pytest

from runner import slurm as ask
from runner.errors import SubmissionError
from runner.slurm_text import (
    JobInfo,
    Node,
    parse_config,
    parse_elements,
    parse_nodes,
    parse_record,
    parse_sacct,
    parse_squeue,
    parse_time,
)
from tests.slurm_cluster import sbatch, state, wait_for

SQUEUE = """\
2|FAILED|127.0.0.1|1795356856|1795356857|NonZeroExitCode
1_7|PENDING||N/A|N/A|JobArrayTaskLimit
3|PENDING||1795360456|1795361056|BeginTime
1_0|RUNNING|127.0.0.[1-2]|1795356856|1795357456|None
"""
SACCT = """\
2|FAILED|3:0|127.0.0.1|1795356856|1795356857|None
4|FAILED|0:9|127.0.0.1|1795356856|1795356857|None
9|CANCELLED by 1000|0:0|None assigned|Unknown|2026-11-22T14:14:18|None
1_0|COMPLETED|0:0|127.0.0.1|1795356856|1795356862|None
1_[1-3,7%1]|PENDING|0:0|None assigned|Unknown|Unknown|JobArrayTaskLimit
"""
JOB = (
    "JobId=2 JobName=a b=c State=X UserId=root(0) GroupId=root(0) MCS_label=N/A Priority=4294901758 Nice=0 "
    "Account=root QOS=normal JobState=FAILED Reason=NonZeroExitCode Dependency=(null) Requeue=1 Restarts=0 "
    "ExitCode=3:0 EndTime=1795356857 PreemptTime=None AllocNode:Sid=localhost:3059 NodeList=127.0.0.1 "
    "CPUs/Task=1 ReqB:S:C:T=0:0:*:* TRES=cpu=1,mem=200M,node=1,billing=1 Command=/tmp/my job/run.sh --x=1 "
    "WorkDir=/tmp StdOut=/dev/null Power= "
)
CONFIG = """\
Configuration data as of 2026-11-22T14:14:18
AuthInfo                = socket=/tmp/munge.socket,cred_expire=5
KillWait                = 4 sec
SlurmctldParameters     = (null)

Slurmctld(primary) at vm is UP
"""


def test_squeue_lines_become_jobs():
    assert parse_squeue(SQUEUE) == {
        "2": JobInfo("2", "FAILED", "127.0.0.1", 1795356856, 1795356857, "NonZeroExitCode"),
        "1_7": JobInfo("1_7", "PENDING", "", None, None, "JobArrayTaskLimit"),
        "3": JobInfo("3", "PENDING", "", 1795360456, 1795361056, "BeginTime"),
        "1_0": JobInfo("1_0", "RUNNING", "127.0.0.[1-2]", 1795356856, 1795357456, "None"),
    }


def test_sacct_lines_become_jobs():
    found = parse_sacct(SACCT)
    assert list(found) == ["2", "4", "9", "1_0", "1_1", "1_2", "1_3", "1_7"]
    assert (found["2"].exit_code, found["2"].signal) == (3, 0)
    assert (found["4"].exit_code, found["4"].signal) == (0, 9)
    assert (found["9"].state, found["9"].nodes, found["9"].start) == ("CANCELLED", "", None)
    assert found["9"].end == time.mktime((2026, 11, 22, 14, 14, 18, 0, 0, -1))
    assert found["1_7"].state == "PENDING"


@pytest.mark.parametrize(
    ("states", "before"),
    [
        (["PREEMPTED", "RUNNING"], "PREEMPTED"),
        (["NODE_FAIL", "PREEMPTED", "RUNNING"], "PREEMPTED"),
        (["NODE_FAIL", "PREEMPTED"], "PREEMPTED"),  # of the present launch the accounts have not heard yet
        (["RUNNING"], None),
        ([], None),
    ],
)
def test_the_launch_before_the_present_one(monkeypatch, states, before):
    lines = [f"7|{state}|0:0|n1|1795356856|1795356857|None\n" for state in states]
    monkeypatch.setattr(ask, "ask", lambda *_: "".join(lines))
    found = ask.previous_launch("7")
    assert (found.state if found is not None else None) == before


@pytest.mark.parametrize(
    ("name", "elements"),
    [
        ("12", ["12"]),
        ("12_3", ["12_3"]),
        ("12_[5]", ["12_5"]),
        ("12_[0-2]", ["12_0", "12_1", "12_2"]),
        ("12_[0-1,5,8-9%4]", ["12_0", "12_1", "12_5", "12_8", "12_9"]),
        ("12_[0-6:3]", ["12_0", "12_3", "12_6"]),
    ],
)
def test_waiting_elements_are_named_one_by_one(name, elements):
    assert parse_elements(name) == elements


def test_nodes_have_what_they_are_configured_with():
    text = "gpu|64|257000|gpu:a100:4(S:0-1),shard:a100:16\ncpu|8|1024|(null)\nold|8|2048|gpu:2,gpu:k80:1\n"
    assert parse_nodes(text) == [
        Node("gpu", 64, 257000 / 1024, 4),
        Node("cpu", 8, 1.0, 0),
        Node("old", 8, 2.0, 3),
    ]


def test_record_keeps_blanks_and_signs_within_values():
    record = parse_record(JOB)
    assert record["JobState"] == "FAILED"
    assert record["JobName"] == "a b=c"
    assert record["Command"] == "/tmp/my job/run.sh --x=1"
    assert record["TRES"] == "cpu=1,mem=200M,node=1,billing=1"
    assert record["AllocNode:Sid"] == "localhost:3059"
    assert (record["StdOut"], record["Power"]) == ("/dev/null", "")


def test_config_is_read_line_by_line():
    assert parse_config(CONFIG) == {
        "AuthInfo": "socket=/tmp/munge.socket,cred_expire=5",
        "KillWait": "4 sec",
        "SlurmctldParameters": "(null)",
    }


@pytest.mark.parametrize("text", ["Unknown", "N/A", "None", "NONE", "(null)", ""])
def test_times_that_are_none(text):
    assert parse_time(text) is None


@pytest.mark.parametrize("job_id", ["", "12a", "12_", "_3", "1 2", "12;id", "-1", "12_[0-3]", "12\n", "١٢"])
def test_job_ids_are_checked_before_anything_runs(job_id, monkeypatch):
    monkeypatch.setenv("PATH", "")
    for question in (ask.squeue, ask.sacct, ask.cancel):
        with pytest.raises(ValueError, match="not a job id"):
            question([job_id])
    for question in (ask.show_job, ask.requeue):
        with pytest.raises(ValueError, match="not a job id"):
            question(job_id)


def test_nothing_asked_runs_nothing(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert ask.squeue([]) == ask.sacct([]) == {}
    ask.cancel([])


def test_absent_slurm_is_one_line(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SubmissionError, match=r"^squeue not found: [^\n]+$"):
        ask.squeue(["1"])


def test_silent_controller_is_one_line(slurm, tmp_path, monkeypatch):
    """Nobody listens on the port of this configuration."""
    text = slurm.slurm_conf.read_text()
    port = slurm.settings.port0
    (tmp_path / "slurm.conf").write_text(
        text.replace(f"SlurmctldPort={port}", "SlurmctldPort=1").replace("MessageTimeout=5", "MessageTimeout=1")
    )
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    with pytest.raises(SubmissionError, match=r"^scontrol: [^\n]*[Uu]nable to contact slurm controller[^\n]*$"):
        ask.show_config()


def test_questions_about_many_jobs(slurm):
    """An array, a single job and ids Slurm never gave out, in one question."""
    array = sbatch("--array=0-2,5%1", "-w", slurm.nodes[7], "--wrap", "sleep 30")
    job = sbatch("-w", slurm.nodes[7], "--wrap", "exit 3")
    wait_for(lambda: state(f"{array}_0"), 10, "the first element", until=lambda found: found == "RUNNING")
    wait_for(lambda: state(job), 10, "the job", until=lambda found: found == "FAILED")

    elements = [f"{array}_{index}" for index in (0, 1, 2, 5)]
    found = ask.squeue([*elements, f"{array}_77", job, "999999", "999998_1"])
    assert set(found) == {*elements, job}
    assert found[elements[0]].state == "RUNNING"
    assert found[elements[0]].nodes == slurm.nodes[7]
    assert found[elements[0]].end > time.time()
    assert found[elements[3]].state == "PENDING"
    assert set(ask.squeue([array])) == set(elements)
    assert set(ask.squeue(elements[1:2])) == {elements[1]}
    assert ask.squeue(["999999"]) == {}

    assert ask.show_job(job)["ExitCode"] == "3:0"
    assert ask.show_job(elements[0])["ArrayTaskId"] == "0"
    assert ask.show_job("999999") == {}

    ask.cancel([*elements, "999999"])
    wait_for(
        lambda: {info.state for info in ask.squeue(elements).values()},
        15,
        "the end",
        until={"CANCELLED"}.__eq__,
    )
    ask.cancel([*elements, job, "999999"])


def test_sacct_is_the_second_source(slurm):
    job = sbatch("-w", slurm.nodes[7], "--wrap", "kill -9 $$")
    ended = wait_for(
        lambda: ask.sacct([job, "999999"]),
        15,
        "its account",
        until=lambda found: job in found and found[job].end,
    )
    assert set(ended) == {job}
    assert (ended[job].state, ended[job].exit_code, ended[job].signal) == ("FAILED", 0, 9)


def test_no_accounts_is_no_answer(bare_slurm):
    assert ask.sacct(["1"]) == {}


def test_show_config_and_partition(slurm):
    config = ask.show_config()
    assert "preempt_send_user_signal" in config["SlurmctldParameters"]
    assert config["KillWait"] == f"{slurm.settings.kill_wait_seconds} sec"
    assert ask.show_partition("low")["GraceTime"] == str(slurm.settings.grace_seconds)
    with pytest.raises(SubmissionError, match="nowhere"):
        ask.show_partition("nowhere")


def test_requeue_runs_the_job_again(slurm, tmp_path):
    seen = tmp_path / "seen"
    job = sbatch("-w", slurm.nodes[6], "--wrap", f"echo ${{SLURM_RESTART_COUNT:-0}} >> {seen}; sleep 30")
    wait_for(seen.exists, 10, "the first start")
    ask.requeue(job)
    assert wait_for(lambda: ask.show_job(job)["Restarts"], 10, "the requeue", until="1".__eq__)
    ask.cancel([job])
    with pytest.raises(SubmissionError, match=r"^scontrol: Invalid job id"):
        ask.requeue("999999")


def test_settings_of_the_user_do_not_change_the_answers(slurm, monkeypatch):
    job = sbatch("-w", slurm.nodes[7], "--wrap", "exit 0")
    for name, value in {
        "SQUEUE_FORMAT": "%u",
        "SQUEUE_STATES": "SUSPENDED",
        "SQUEUE_USERS": "nobody",
        "SLURM_TIME_FORMAT": "relative",
        "SACCT_FORMAT": "User",
    }.items():
        monkeypatch.setenv(name, value)
    found = wait_for(
        lambda: ask.squeue([job]), 10, "the job's end", until=lambda found: found[job].state == "COMPLETED"
    )
    assert time.time() - 60 < found[job].end < time.time() + 1
