"""Submissions on a real Slurm with narrow limits: MaxArraySize=5, and a QOS that lets a user have three jobs.

The jobs end in the profile's own lines of shell, before any python starts.
"""

import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner import onebox
from runner import slurm as slurm_tools
from runner.cli import run as cli
from runner.onebox.cluster import user
from runner.rundir import find_trials
from tests.experiments import write_experiment
from tests.slurm_cluster import environment_of, own_cluster, skip_without_slurm, wait_for

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def narrow() -> Iterator[onebox.Cluster]:
    """A cluster of this file alone, with the accounts `lab` and the QOS `small`."""
    skip_without_slurm()
    with own_cluster(nodes=2, enforce_limits=True, array_size=5) as cluster, environment_of(cluster):
        for words in (
            "add qos small MaxSubmitJobsPerUser=3",
            "add qos short MaxWall=00:20:00",
            "add account lab",
            "add account physics GrpSubmitJobs=2",
            "add account seminar parent=physics",
            f"add user {user()} account=lab",
            f"add user {user()} account=seminar",
            f"modify user {user()} set qos+=small,short",
        ):
            command = ["sacctmgr", "-i", *words.split()]
            done = subprocess.run(command, capture_output=True, text=True, timeout=30)
            assert done.returncode == 0, done.stderr + done.stdout
        yield cluster


def write_site(tmp_path: Path, *lines: str, parallel: int = 3, account: str = "lab") -> str:
    path = tmp_path / "site.yaml"
    keys = ["cluster: slurm", f"account: {account}", "memory_gb: 0.5", f"parallel: {parallel}", *lines]
    path.write_text("\n".join(keys))
    return str(path)


def submit(tmp_path: Path, site: str, trials: int) -> int:
    path = write_experiment(tmp_path, sweep={"seeds": list(range(trials))})
    return cli(["submit", str(path), "--on", site, "--root", str(tmp_path / "runs")])


def read_events(log: Path) -> list[tuple[str, str]]:
    """(begin or end, job) in the order in which it happened; each line is one write."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [(word, job) for word, _, job in (line.partition(" ") for line in lines)]


@pytest.mark.parametrize("parallel", [3, pytest.param(1, marks=pytest.mark.nightly)])
def test_twelve_trials_in_arrays_of_five_never_run_more_than_the_throttle(narrow, tmp_path, capfd, parallel):
    log = tmp_path / "log"
    event = f'echo "$0 ${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID" >> {log}'
    lines = [event.replace("$0", "begin"), "sleep 0.3", event.replace("$0", "end"), "exit 0"]
    site = write_site(tmp_path, f"setup: {lines}", parallel=parallel)
    assert submit(tmp_path, site, 12) == 0
    waiting = ", 2 of them after another" * (parallel == 1)
    told = f"12 trials go as 3 arrays of 4 (the cluster takes 5 in one){waiting}; {parallel} at a time in all"
    assert told in capfd.readouterr().err
    events = wait_for(lambda: read_events(log), 120, "all to end", until=lambda found: len(found) == 24)
    running, most = set(), 0
    for word, job in events:
        running = running | {job} if word == "begin" else running - {job}
        most = max(most, len(running))
    assert not running and most == parallel
    rows = {str(run.job_rows()[-1]["job_id"]) for run in find_trials(tmp_path / "runs" / "tiny")}
    assert rows == {job for _, job in events}
    arrays = Counter(job.partition("_")[0] for job in rows)
    assert sorted(arrays.values()) == [4, 4, 4]


def test_a_qos_gets_what_it_has_room_for_and_the_rest_later(narrow, tmp_path, capfd):
    site = write_site(tmp_path, "qos: small", 'setup: ["exec sleep 600"]')
    ids: list[str] = []
    try:
        for already, told, count in [
            (0, "3 of 5 trials sent: MaxSubmitJobsPerUser of QOS small is 3, and 0 jobs are there", 3),
            (3, "none of 2 trials sent: MaxSubmitJobsPerUser of QOS small is 3, and 3 jobs are there", 0),
        ]:
            assert submit(tmp_path, site, 5) == 0
            out, err = capfd.readouterr()
            assert told in err and f"tiny: 5 trials, {count} to submit" in out
            runs = find_trials(tmp_path / "runs" / "tiny")
            assert len(runs) == already + count, "of what is not sent there is no trace"
            ids = [str(run.job_rows()[-1]["job_id"]) for run in runs]
        slurm_tools.cancel(ids[:1])
        wait_for(lambda: len(slurm_tools.scripts()), 30, "one to end", until=lambda left: left == 2)
        assert submit(tmp_path, site, 5) == 0
        out, err = capfd.readouterr()
        # Two were never sent; a third may be lost, by what Slurm still knows of the job that was cancelled.
        assert re.search("1 of [23] trials sent", err) and "1 to submit" in out
        ids = [str(run.job_rows()[-1]["job_id"]) for run in find_trials(tmp_path / "runs" / "tiny")]
    finally:
        slurm_tools.cancel(ids)


def test_a_limit_of_what_an_account_is_part_of_holds(narrow, tmp_path, capfd):
    site = write_site(tmp_path, 'setup: ["exec sleep 600"]', account="seminar")
    try:
        assert submit(tmp_path, site, 3) == 0
        told = "2 of 3 trials sent: GrpSubmitJobs of account physics is 2, and 0 jobs are there"
        assert told in capfd.readouterr().err
    finally:
        slurm_tools.cancel([str(run.job_rows()[-1]["job_id"]) for run in find_trials(tmp_path / "runs" / "tiny")])


CANCEL_ITSELF = """
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
job=${job:-$SLURM_JOB_ID}
until row=$(grep -l "\\"$job\\"" RUNS/tiny/*/jobs.jsonl); do sleep 0.1; done
echo {} > "${row%/*}/cancelled.json"
exit 0
"""
"""What `runner cancel` writes, by the job's own shell: it ends before any python starts."""


def test_who_waits_sends_the_rest_as_there_is_room(narrow, tmp_path, capfd):
    path = write_experiment(tmp_path, sweep={"seeds": list(range(7))})
    (tmp_path / "end.sh").write_text(CANCEL_ITSELF.replace("RUNS", str(tmp_path / "runs")))
    site = write_site(tmp_path, "qos: small", f"setup: [. {tmp_path}/end.sh]")
    assert cli(["submit", str(path), "--on", site, "--wait", "--root", str(tmp_path / "runs")]) == 1
    out, err = capfd.readouterr()
    assert "3 of 7 trials sent" in err and "tiny: 7 trials, 3 to submit" in out and "7 cancelled" in out
    assert [len(run.job_rows()) for run in find_trials(tmp_path / "runs" / "tiny")] == [1] * 7, "each was sent once"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("partition: lwo", 'site.yaml:5: partition: "lwo" is not allowed; did you mean "low"?'),
        ("qos: big", 'site.yaml:5: qos: "big" is not allowed; Slurm says: Invalid qos specification'),
        ("constraint: h100", 'site.yaml:5: constraint: "h100" is not allowed; Slurm says: Invalid feature spec'),
        ("nodelist: node7", 'site.yaml:5: nodelist: "node7" is not allowed; Slurm says: Invalid node name spec'),
        (
            "{qos: short, time_minutes: 21}",
            "site.yaml:6: time_minutes: 21 is not allowed; MaxWall of QOS short is 20",
        ),
        ("cpus_per_task: 500", "site.yaml:5: cpus_per_task: 500 is not allowed; a trial takes 500 CPUs on a node, and"),
    ],
)
def test_what_slurm_would_not_take_is_one_line_and_leaves_nothing(narrow, tmp_path, capfd, line, problem):
    site = write_site(tmp_path, *line.strip("{}").split(", "))
    assert submit(tmp_path, site, 2) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1 and problem in err
    assert not (tmp_path / "runs").exists()


def test_a_time_above_the_partition_s_and_an_account_that_is_none(narrow, tmp_path, capfd):
    """Slurm takes the first, and the job waits for ever."""
    change = ["scontrol", "update", "partitionname=low"]
    subprocess.run([*change, "maxtime=30"], check=True, timeout=30)
    try:
        assert submit(tmp_path, write_site(tmp_path, "time_minutes: 31"), 2) == 2
        assert "site.yaml:5: time_minutes: 31 is not allowed; partition low has a limit of 30" in capfd.readouterr().err
    finally:
        subprocess.run([*change, "maxtime=infinite"], check=True, timeout=30)
    site = Path(write_site(tmp_path))
    site.write_text(site.read_text().replace("lab", "lob"))
    assert submit(tmp_path, str(site), 2) == 2
    assert 'site.yaml:2: account: "lob" is not allowed; Slurm says: Invalid account' in capfd.readouterr().err
    assert not (tmp_path / "runs").exists()
