"""A submission that runs after other trials: what it waits for, and what it does when they are not done."""

from pathlib import Path

import pytest
import yaml

from runner import slurm as slurm_tools
from runner.after import jobs_to_wait_for, main, refuse_unless_done
from runner.cli import run as cli
from runner.cluster_name import find_name
from runner.errors import SubmissionError
from runner.files import read_json, write_json
from runner.record import Record
from runner.requeue import EXIT_OVER
from runner.rundir import RunDir, find_trials
from runner.status import Row
from runner.submission import SubmissionDir
from tests.experiments import write_experiment
from tests.slurm_cluster import wait_for


def row(state: str, job_id: str | None = "7_0", cluster: str = "slurm") -> Row:
    job = {"cluster": cluster, "job_id": job_id} if job_id else None
    return Row(RunDir(Path("/runs/first/abc")), Record(job=job), state)


@pytest.mark.parametrize(
    ("rows", "jobs"),
    [
        ([row("running", "7_3")], ["7_3"]),
        ([row("pending", "12")], ["12"]),
        ([row("requeued", "7_0"), row("running", "7_1"), row("pending", "12"), row("done", "3_1")], ["7", "12"]),
        ([row("done"), row("done")], []),
        ([row("done")], []),
    ],
)
def test_what_is_not_done_is_waited_for(rows, jobs):
    assert jobs_to_wait_for(rows) == jobs


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([row("done"), row("failed")], "--after first/abc: is failed, and waiting does not change that"),
        ([row("cancelled")], "is cancelled"),
        ([row("unknown")], "is unknown"),
        ([row("pending", None)], "is pending"),
        ([row("running", "local-3", "local")], "runs in a local queue"),
    ],
)
def test_what_will_not_be_done_is_not_waited_for(rows, problem):
    with pytest.raises(SubmissionError, match=problem):
        jobs_to_wait_for(rows)


def test_a_trial_begins_only_where_the_others_have_results(tmp_path):
    run, *others = (RunDir(tmp_path / "exp" / name) for name in "abcdef")
    submission = tmp_path / "exp" / ".submissions" / "x"
    submission.mkdir(parents=True)
    run.path.mkdir()
    (submission / "trials.txt").write_text(f"other\n{run.path}\n")
    (submission / "after.txt").write_text("".join(f"{other.path}\n" for other in others))
    for other in others:
        other.path.mkdir()
        write_json(other.result, {})
    question = [str(submission / "trials.txt"), "1", str(submission / "after.txt")]
    assert main(question) == 0 and not run.failure.exists()
    for other in others[1:]:
        other.result.unlink()
    assert main(question) == EXIT_OVER
    failure = read_json(run.failure)
    assert failure is not None and failure["cause"] == "dependency"
    assert failure["error"].startswith("it was to run after exp/c, exp/d, exp/e and 1 more, without a result")
    write_json(run.result, {})
    assert not refuse_unless_done(run, submission / "after.txt"), "done is done"


def test_a_local_queue_does_not_wait(tmp_path, capfd):
    (tmp_path / "local.yaml").write_text("cluster: local")
    other = RunDir(tmp_path / "runs" / "first" / "abc")
    other.path.mkdir(parents=True)
    other.config.touch()
    command = ["submit", str(write_experiment(tmp_path)), "--on", str(tmp_path / "local.yaml"), "--after", "first"]
    assert cli([*command, "--root", str(tmp_path / "runs")]) == 2
    assert "--after: a local queue does not wait for others" in capfd.readouterr().err
    assert not (tmp_path / "runs" / "tiny").exists()


def test_slurm_holds_jobs_back_until_the_others_have_ended(slurm, tmp_path, capfd):
    """The first trial ends without a result, so the second does not train."""
    root, go = tmp_path / "runs", tmp_path / "go"
    sites = {"first": f"until [ -e {go} ]; do sleep 0.1; done; exit 0", "second": "true"}
    for name, line in sites.items():
        site = {"cluster": "slurm", "partition": "low", "memory_gb": 0.5, "setup": [line]}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(site))

    def submit(name: str, *words: str) -> RunDir:
        path = write_experiment(tmp_path, name=name)
        command = ["submit", str(path), "--on", str(tmp_path / f"{name}.yaml"), "--root", str(root), *words]
        assert cli(command) == 0, capfd.readouterr().err
        (run,) = find_trials(root / name)
        return run

    try:
        first = submit("first")
        second = submit("second", "--after", "first")
        ids = [str(run.job_rows()[-1]["job_id"]) for run in (first, second)]
        name = slurm_tools.show_config()["ClusterName"]
        assert first.job_rows()[-1]["slurm_cluster"] == find_name() == name
        assert SubmissionDir(Path(first.job_rows()[-1]["submission"])).read_cluster() == name
        assert slurm_tools.show_job(ids[1])["Dependency"].startswith(f"afterany:{ids[0]}")
    finally:
        go.touch()
    wait_for(second.failure.exists, 60, "the second to give up")
    failure = read_json(second.failure)
    assert failure is not None and failure["error"].startswith(f"it was to run after first/{first.trial}, without")
    assert not second.attempts.exists()
