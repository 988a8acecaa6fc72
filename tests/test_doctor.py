"""The doctor's verdicts follow from what Slurm and this machine say."""

import re
from importlib import metadata
from pathlib import Path

import pytest

from runner import doctor
from runner.doctor import (
    check_cluster,
    check_partition,
    check_root,
    examine,
    parse_duration,
    requeue_delay_seconds,
)
from runner.profile import Profile

CONFIG = {
    "SlurmctldParameters": "idle_on_node_suspend,preempt_send_user_signal",
    "PreemptType": "preempt/partition_prio",
    "PreemptMode": "REQUEUE",
    "JobRequeue": "1",
    "KillWait": "30 sec",
    "AuthInfo": "socket=/run/munge,cred_expire=5",
    "MaxArraySize": "1001",
}
PARTITION = {"State": "UP", "MaxTime": "1-00:00:00", "GraceTime": "120", "PreemptMode": "REQUEUE"}


def verdicts(checks):
    return {check.name: check.verdict for check in checks}


def texts(checks):
    return "\n".join(map(str, checks))


def test_a_cluster_that_sends_the_user_signal():
    assert set(verdicts(check_cluster(CONFIG)).values()) == {"ok"}
    text = texts(check_cluster(CONFIG))
    assert "sends USR2" in text and "waits at least 6 s" in text and "30 s from TERM to KILL" in text and "1001" in text


def test_a_cluster_that_sends_term_only_and_does_not_requeue():
    checks = list(check_cluster({**CONFIG, "SlurmctldParameters": "(null)", "JobRequeue": "0"}))
    assert verdicts(checks)["preemption"] == verdicts(checks)["requeue"] == "warn"
    assert "sends TERM only" in texts(checks) and "off by default" in texts(checks)


def test_a_cluster_without_preemption():
    checks = list(check_cluster({**CONFIG, "SlurmctldParameters": "", "PreemptType": "preempt/none"}))
    assert verdicts(checks)["preemption"] == "ok" and "off" in texts(checks)


@pytest.mark.parametrize(
    ("changes", "profile", "worst"),
    [
        ({}, {}, "ok"),
        ({"MaxTime": "UNLIMITED"}, {"time_minutes": 10_000}, "ok"),
        ({"MaxTime": "01:00:00"}, {"time_minutes": 61}, "fail"),
        ({"State": "DOWN"}, {}, "fail"),
        ({"GraceTime": "0"}, {}, "warn"),
        ({"GraceTime": "0", "PreemptMode": "OFF"}, {}, "ok"),
        ({"PreemptMode": "CANCEL"}, {}, "warn"),
    ],
)
def test_partitions(changes, profile, worst):
    site = Profile(cluster="slurm", partition="low", **profile)
    found = {check.verdict for check in check_partition("low", {**PARTITION, **changes}, site)}
    assert next(verdict for verdict in ("fail", "warn", "ok") if verdict in found) == worst


def test_durations_and_requeue_delay():
    assert [parse_duration(text) for text in ("1-02:03:04", "00:10:00", "30 sec", "8")] == [93784, 600, 30, 8]
    assert [parse_duration(text) for text in ("UNLIMITED", "INFINITE", "")] == [None] * 3
    assert requeue_delay_seconds({}) == 121
    assert requeue_delay_seconds({"AuthInfo": "cred_expire=5"}) == 6
    assert requeue_delay_seconds({"SchedulerParameters": "a=1,requeue_delay=20", "AuthInfo": "cred_expire=5"}) == 20


def test_run_root(tmp_path):
    tmp_path.chmod(0o700)
    assert verdicts(check_root(tmp_path))["run root"] == "ok"
    assert verdicts(check_root(tmp_path / "new" / "deep"))["run root"] == "ok"
    assert not (tmp_path / "new").exists() and not list(tmp_path.iterdir())
    tmp_path.chmod(0o777)
    checks = list(check_root(tmp_path))
    assert checks[0].verdict == "fail" and "chmod go-w" in checks[0].text


def test_run_root_that_cannot_be_written():
    (check,) = check_root(Path("/proc/runs"))
    assert check.verdict == "fail" and "cannot write to /proc" in check.text


def test_little_disk_space(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "LITTLE_SPACE_GB", 1e9)
    assert verdicts(check_root(tmp_path))["disk"] == "warn"
    monkeypatch.setattr(doctor, "NO_SPACE_GB", 1e9)
    assert verdicts(check_root(tmp_path))["disk"] == "fail"


@pytest.mark.parametrize(
    ("version", "verdict"), [("1.5.4", "ok"), ("1.5.9", "ok"), ("1.6.0", "warn"), ("1.4.5", "warn")]
)
def test_versions(version, verdict, monkeypatch):
    monkeypatch.setattr(metadata, "version", lambda package: version)
    assert doctor.check_version("submitit").verdict == verdict


def test_this_machine_and_no_key_on_the_page(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "Sentinel7-never-to-be-seen")
    monkeypatch.setenv("PATH", str(tmp_path))
    checks = list(examine(tmp_path, None))
    assert "fail" not in verdicts(checks).values()
    assert "Sentinel7" not in texts(checks) and re.search("wandb +logged in", texts(checks))
    assert "not on this machine" in texts(checks)


def test_profile_errors_are_lines_too(tmp_path):
    assert list(examine(tmp_path, "no-such-profile"))[-1].verdict == "fail"
    profile = tmp_path / "site.yaml"
    profile.write_text("cluster: slurm\npartition: low\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        last = list(examine(tmp_path, str(profile)))[-1]
    assert last.name == "slurm" and last.verdict == "fail"


def test_a_real_cluster(slurm, tmp_path):
    profile = tmp_path / "site.yaml"
    profile.write_text("cluster: slurm\npartition: low,nowhere\ntime_minutes: 30\n")
    checks = list(examine(tmp_path, str(profile)))
    found = verdicts(checks)
    assert found["slurm"] == found["sacct"] == found["preemption"] == found["requeue"] == "ok"
    assert found["partition low"] == "warn" and "GraceTime 8 s" in texts(checks)
    assert found["partition nowhere"] == "fail"
