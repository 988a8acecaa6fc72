"""What Slurm's reasons say in words, and which of them no waiting helps."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from runner import reasons
from runner.slurm import squeue
from runner.status import Accounts, ask_slurm, choose_states, count_states, read_statuses
from tests.slurm_cluster import sbatch, wait_for
from tests.trials import end, make_trial, slurm_job, start

LIMITS = """
AssocGrpCpuLimit AssocGrpCPURunMinutesLimit AssocGrpGRES AssocGrpJobsLimit AssocGrpMemLimit AssocGrpSubmitJobsLimit
AssocMaxJobsLimit AssocMaxSubmitJobLimit QOSGrpBilling QOSGrpMemoryRunMinutes QOSGrpNodeLimit QOSMaxCpuPerUserLimit
QOSMaxGRESPerUser QOSMaxJobsPerUserLimit QOSMaxSubmitJobPerUserLimit QOSMaxMemoryPerUser MaxJobsPerAccount
MaxGRESPerAccount MaxSubmitJobsPerAccount QOSMaxLicensePerUser QOSGrpUnknownRunMinutes AssocGrpBB
"""
"""Limits that others have used up for now, as Slurm 22.05 spells them."""

BLOCKED_LIMITS = """
AssocGrpCPUMinutesLimit AssocGrpGRESMinutes AssocGrpWallLimit AssocMaxCpuPerJobLimit AssocMaxCpuMinutesPerJobLimit
AssocMaxGRESPerNode AssocMaxWallDurationPerJobLimit QOSGrpWallLimit QOSGrpCPUMinutesLimit QOSMaxNodePerJobLimit
QOSMaxMemoryPerNode QOSMaxWallDurationPerJobLimit QOSMinCpuNotSatisfied QOSMinGRES QOSMaxEnergyMinutesPerJob
"""


@pytest.mark.parametrize(("names", "blocked"), [(LIMITS, False), (BLOCKED_LIMITS, True)])
def test_limits_are_read_from_the_parts_of_their_names(names, blocked):
    found = {name: reasons.explain(name) for name in names.split()}
    assert [name for name, reason in found.items() if reason is None or reason.blocked != blocked] == []


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("Priority", "jobs of higher priority come first (Priority)"),
        ("QOSMaxJobsPerUserLimit", "its QOS allows a user no more running jobs at a time (QOSMaxJobsPerUserLimit)"),
        ("AssocGrpCPUMinutesLimit", "its account has used up its CPUs times minutes (AssocGrpCPUMinutesLimit)"),
        ("QOSMaxWallDurationPerJobLimit", "asks for more time than its QOS allows a job"),
        ("BeginTime", "not before 14:00 (BeginTime)"),
        ("JobHeldUser", "held by its user (JobHeldUser); `scontrol release 7_3` lets it go"),
        ("ReqNodeNotAvail,_UnavailableNodes:node[1-3]", "nodes that it needs are down, drained or reserved (ReqNode"),
        ("ReqNodeNotAvail,_Reserved_for_maintenance", "a maintenance begins before its time would be up"),
        ("launch_failed_requeued_held", "held after a node failed to launch it (launch_failed_requeued_held); `sc"),
        ("(launch failed requeued held)", "held after a node failed to launch it"),
        ("SomethingNew{job}", "SomethingNew{job}"),
        ("None", ""),
    ],
)
def test_a_reason_in_words(reason, words):
    assert reasons.describe(reason, "7_3", "14:00")[0].startswith(words)


def test_what_waiting_does_not_help_is_blocked():
    blocked = {name for name in reasons.TABLE if reasons.describe(name, "1", "")[1]}
    held = {"JobHeldUser", "JobHeldAdmin", "JobHoldMaxRequeue", "launch failed requeued held"}
    refused = {"PartitionTimeLimit", "BadConstraints", "DependencyNeverSatisfied", "InvalidAccount", "QOSNotAllowed"}
    assert held | refused <= blocked
    assert not blocked & {"Priority", "Resources", "BeginTime", "JobArrayTaskLimit", "ReqNodeNotAvail", "Dependency"}


def count_calls(folder: Path, monkeypatch) -> Path:
    """A file that gets a line for each squeue and sacct from now on; the real ones answer."""
    calls = folder / "calls"
    for tool in ("squeue", "sacct"):
        path = folder / "bin" / tool
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'#!/bin/sh\necho {tool} >> {calls}\nexec {shutil.which(tool)} "$@"\n')
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
    return calls


def test_slurm_says_why_jobs_wait_in_two_calls(slurm, tmp_path, monkeypatch):
    node = slurm.nodes[3]
    held, failing = sbatch("--hold", "--wrap", "true"), sbatch("-w", node, "--wrap", "exit 1")
    never = sbatch("-d", f"afterok:{failing}", "--wrap", "true")
    later = sbatch("--begin=now+1hour", "--wrap", "true")
    array = sbatch("-w", node, "--array=0-1%1", "--wrap", "sleep 60")
    ids = [held, never, later, f"{array}_0", f"{array}_1", failing, "999999"]
    attempts = [start(1), end(1, 5, "user code", requeue=True, delay_seconds=300)]
    runs = [make_trial(tmp_path, f"t{i}", job=slurm_job(each)) for i, each in enumerate(ids)]
    runs.append(make_trial(tmp_path, "back", job=slurm_job(later), attempts=attempts))
    try:
        wait_for(
            lambda: {job_id: info.reason for job_id, info in squeue(ids).items()},
            30,
            "the reasons",
            until=lambda found: (
                (found.get(never), found.get(f"{array}_1")) == ("DependencyNeverSatisfied", "JobArrayTaskLimit")
            ),
        )
        wait_for(
            lambda: squeue([failing])[failing].state, 30, "the end of a job", until=lambda found: found == "FAILED"
        )
        calls = count_calls(tmp_path, monkeypatch)
        rows = read_statuses(runs)
        assert sorted(calls.read_text().split()) == ["sacct", "squeue"]
        states = ["pending", "pending", "pending", "running", "pending", "failed", "unknown", "requeued"]
        assert [row.state for row in rows] == states
        assert [row.blocked for row in rows] == [True, True, False, False, False, False, False, False]
        notes = [row.note for row in rows]
        assert notes[0] == f"held by its user (JobHeldUser); `scontrol release {held}` lets it go"
        assert notes[1].startswith("the job that it waits for has failed")
        assert notes[2].startswith("not before 2") and "`parallel`" in notes[4]
        assert notes[7].endswith("(BeginTime), after user code")
        assert choose_states(rows, ["blocked"]) == rows[:2] and "2 blocked" in count_states(rows)

        calls.unlink()
        many = [*ids, *(str(5_000_000 + number) for number in range(10_000))]
        accounts = Accounts()
        answers = [ask_slurm(many, accounts=accounts), ask_slurm(many, accounts=accounts)]
        assert answers[0] == answers[1] and set(ids[:6]) == set(answers[0])
        assert sorted(calls.read_text().split()) == ["sacct", "squeue", "squeue"], (
            "the accounts are asked once a minute"
        )
    finally:
        subprocess.run(["scancel", held, never, later, array], check=True)
