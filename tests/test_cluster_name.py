"""One run root used from two clusters: each is asked about its own jobs, and nothing is done twice."""

import os
from pathlib import Path

import pytest

from runner import job
from runner.cancel import cancel
from runner.cluster_name import find_name, read_name
from runner.errors import SubmissionError
from runner.files import append_row, write_json
from runner.job import ArrayJob
from runner.orphans import settle_orphans
from runner.plan import Found, decide
from runner.retry import look
from runner.status import read_statuses
from runner.submission import SubmissionDir, describe_job
from tests.trials import SUBMITTED, make_trial, slurm_job, start

HERE, THERE = {"slurm_cluster": "lab"}, {"slurm_cluster": "centre"}


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The Slurm of cluster lab, where every job runs; a line for each question that it was asked."""
    folder, log = tmp_path / "bin", tmp_path / "calls"
    folder.mkdir()
    answers = {
        "squeue": 'for id in 7_0 7_1 7_2; do echo "$id|RUNNING|n1|N/A|N/A|None"; done',
        "sacct": "true",
        "scancel": "true",
        "scontrol": 'echo "ClusterName             = Lab"',
    }
    for tool, answer in answers.items():
        (folder / tool).write_text(f'#!/bin/sh\necho {tool} "$@" >> {log}\n{answer}\n')
        (folder / tool).chmod(0o755)
    log.touch()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    for name in ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_CLUSTER_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("runner.cluster_name.CONFIGURATIONS", (str(tmp_path / "usual.conf"),))
    return log


def tools(calls: Path) -> list[str]:
    return [line.split()[0] for line in calls.read_text().splitlines()]


def configure(tmp_path: Path, name: str = "slurm.conf", cluster: str = "Lab") -> str:
    path = tmp_path / name
    path.write_text(f"# ClusterName=old\nSlurmctldHost=c\nclustername = {cluster} # ours\n")
    return str(path)


def test_the_name_is_read_where_it_is_written_and_asked_for_once_elsewhere(tmp_path, calls, monkeypatch):
    assert find_name({"lab"}) == find_name() == "lab" and tools(calls) == ["scontrol"]
    configure(tmp_path, "usual.conf", "OLD")
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/x")
    assert find_name({"old"}) == "old" and find_name({"lab"}) == "lab", "a file that may be out of use"
    assert tools(calls) == ["scontrol"] * 2
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "lab")
    assert find_name({"lab"}) == "lab"
    monkeypatch.setenv("SLURM_CONF", configure(tmp_path, cluster="other"))
    assert find_name({"lab"}) == "other", "it is what Slurm's tools read"
    assert tools(calls) == ["scontrol"] * 2
    (tmp_path / "slurm.conf").write_text("include names.conf\n")
    assert read_name(tmp_path / "slurm.conf") is None and find_name() == "lab" and len(tools(calls)) == 3


def test_each_cluster_is_asked_about_its_own_jobs_in_two_calls(tmp_path, calls, monkeypatch):
    monkeypatch.setenv("SLURM_CONF", configure(tmp_path))
    jobs = [slurm_job("7_0"), slurm_job("7_1") | HERE, slurm_job("7_2") | THERE, slurm_job("8") | HERE]
    runs = [make_trial(tmp_path, f"t{i}", job=job, attempts=[start(1)]) for i, job in enumerate(jobs)]
    rows = read_statuses(runs)
    assert [row.state for row in rows] == ["running", "running", "unknown", "unknown"]
    assert rows[2].note == "job 7_2 is one of cluster centre, to be asked about there" and not rows[2].settled
    assert "Slurm knows no job 8" in rows[3].note
    assert tools(calls) == ["squeue", "sacct"]
    assert decide(Found(rows[2].state, rows[2].note, rows[2].settled, False, "7_2")).action == "nothing"
    plan = look(runs[2:])
    assert plan.runs == [runs[3]] and plan.refused == [f"t2: it may still be running: {rows[2].note}"]
    calls.write_text("")
    assert [row.state for row in read_statuses([runs[2]])] == ["unknown"] and tools(calls) == []


def test_without_a_name_nobody_is_asked_for_one(tmp_path, calls):
    assert read_statuses([make_trial(tmp_path, "t", job=slurm_job())])[0].state == "running"
    assert tools(calls) == ["squeue"]


def test_a_job_of_another_cluster_is_left_to_its_trial(tmp_path, calls, monkeypatch, capfd):
    """The same number is another's job here."""
    monkeypatch.setenv("SLURM_CONF", configure(tmp_path))
    runs = [make_trial(tmp_path, name, job=slurm_job() | of) for name, of in {"a": HERE, "b": THERE}.items()]
    assert cancel(runs[1:]) == runs[1:] and tools(calls) == []
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("runner: jobs of cluster centre cannot be cancelled from here; ")
    assert "`scancel 7_0` there" in line and runs[1].cancelled.exists()
    runs[1].cancelled.unlink()
    assert cancel(runs) == runs and calls.read_text() == "scancel 7_0\n"


def test_a_submission_cut_off_on_another_cluster_is_left_to_that(tmp_path, calls, monkeypatch):
    monkeypatch.setenv("SLURM_CONF", configure(tmp_path))
    run = make_trial(tmp_path, "a")
    submission = SubmissionDir(run.path.parent / ".submissions" / "x")
    submission.jobs.mkdir(parents=True)
    submission.write_elements([[run]])
    submission.cluster.write_text("centre\n")
    with pytest.raises(SubmissionError, match="to cluster centre, which may have jobs of a; `runner submit` there"):
        settle_orphans(run.path.parent)
    write_json(run.result, {})
    assert settle_orphans(run.path.parent) == [] and submission.read_number() is None and tools(calls) == []
    run.result.unlink()
    submission.cluster.write_text("lab\n")
    assert settle_orphans(run.path.parent) == [] and submission.read_number() == "0" and tools(calls) == ["squeue"]


def test_a_job_leaves_a_trial_alone_that_was_submitted_anew(tmp_path, monkeypatch):
    begun = []
    monkeypatch.setattr(job.TrainJob, "__call__", lambda self: begun.append(self.folder))
    run = make_trial(tmp_path, "a")
    submission = SubmissionDir(run.path.parent / ".submissions" / "x")
    submission.path.mkdir(parents=True)
    submission.write_elements([[run]])
    work = ArrayJob(str(submission.manifest))
    work()
    row = {"time": SUBMITTED, "submission": str(submission.path)} | describe_job("7", "centre", is_packed=False)
    append_row(run.jobs, row)
    work()
    assert begun == [str(run.path)] * 2 and row["slurm_cluster"] == "centre"
    append_row(run.jobs, {**row, "submission": "another"})
    work()
    assert len(begun) == 2
