"""Who may read and who may write: jobs are run from folders that nobody else can change, files are the user's own."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from runner import launcher, requeue
from runner.cli import run as cli
from runner.errors import ConfigError
from runner.files import check_private
from runner.rundir import RunDir, find_trials
from tests.experiments import run_cli, write_experiment
from tests.slurm_cluster import wait_for

STRANGER = 65534
SMALL = {"data": {"limit": 64}, "train": {"steps": 4}, "schedule": {"warmup_steps": 0}, "tracking": {"every_steps": 2}}
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to somebody else")


@pytest.fixture
def jobs(tmp_path):
    """The folder of job files of a submission, below a run root."""
    folder = tmp_path / "runs" / "tiny" / ".submissions" / "1" / "jobs"
    folder.mkdir(parents=True)
    for path in (folder, *list(folder.parents)[:4]):
        path.chmod(0o700)
    return folder


def chmod(mode):
    return lambda path: path.chmod(mode)


def give_away(path):
    os.chown(path, STRANGER, STRANGER)


def link(path):
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


INTRUSIONS = [
    pytest.param(chmod(0o770), "has mode 0770, so others could change your jobs; chmod go-w it", id="group"),
    pytest.param(chmod(0o707), "has mode 0707, so others could change your jobs", id="everybody"),
    pytest.param(give_away, f"belongs to user {STRANGER}, not to you", id="stranger", marks=only_root),
    pytest.param(link, "is a link", id="link"),
]


@pytest.mark.parametrize("depth", range(5))
@pytest.mark.parametrize(("intrude", "problem"), INTRUSIONS)
def test_every_folder_from_the_job_file_to_the_run_root_is_looked_at(jobs, depth, intrude, problem):
    root, path = jobs.parents[3], [jobs, *jobs.parents][depth]
    check_private(jobs, root)
    intrude(path)
    if path == root and problem == "is a link":
        check_private(jobs, root)  # a run root may be a link to where the space is
        return
    with pytest.raises(ConfigError, match=f"^{path}: {problem}"):
        check_private(jobs, root)


def test_the_root_itself_may_be_a_folder_like_tmp(jobs):
    root = jobs.parents[3]
    root.chmod(0o1777)
    check_private(jobs, root)
    jobs.parents[2].chmod(0o1777)
    with pytest.raises(ConfigError, match="tiny: has mode 1777"):
        check_private(jobs, root)


def test_what_is_not_there_yet_does_not_matter(jobs):
    check_private(jobs / "new" / "newer", jobs.parents[3])


class Attack:
    def __reduce__(self):
        return os.system, ("touch executed",)


@pytest.mark.parametrize("depth", [0, 1, 4])
@pytest.mark.parametrize(("intrude", "problem"), INTRUSIONS[:3])
def test_the_job_does_not_load_a_pickle_that_others_could_have_put_there(jobs, tmp_path, depth, intrude, problem):
    """As a task starts, with submitit's own loader behind the launcher."""
    import cloudpickle

    (jobs / "7_submitted.pkl").write_bytes(cloudpickle.dumps(Attack()))
    command = [sys.executable, "-S", "-E", launcher.__file__, "-u", "-m", "submitit.core._submit", str(jobs)]
    task = {"SUBMITIT_EXECUTOR": "local", "SUBMITIT_LOCAL_JOB_ID": "7", "SUBMITIT_LOCAL_GLOBALID": "0"}
    task |= {"SUBMITIT_LOCAL_NTASKS": "1", "SUBMITIT_LOCAL_LOCALID": "0", "SUBMITIT_LOCAL_NODEID": "0"}

    def start() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env=os.environ | task, cwd=tmp_path, capture_output=True, text=True, timeout=60)

    intrude([jobs, *jobs.parents][depth])
    done = start()
    assert done.returncode == 2 and problem in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "executed").exists()


def test_without_an_intruder_submitit_does_load_it(jobs, tmp_path):
    test = test_the_job_does_not_load_a_pickle_that_others_could_have_put_there
    with pytest.raises(AssertionError):
        test(jobs, tmp_path, 0, lambda path: None, "")
    assert (tmp_path / "executed").exists(), "the test above can fail"


def test_the_local_queue_runs_nothing_from_an_open_folder(jobs, tmp_path):
    submission = jobs.parent
    (submission / "profile.yaml").write_text("cluster: local\nsetup: [touch executed]\n")
    (submission / "resources.json").write_text("{}")
    (submission / "trials.txt").write_text("")
    submission.chmod(0o777)
    command = [sys.executable, "-m", "runner.local_queue", str(submission)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "has mode 0777" in done.stderr


@pytest.mark.parametrize("folder", ["runs", "runs/tiny", "runs/tiny/.submissions"])
def test_nothing_is_submitted_into_an_open_folder(tmp_path, capfd, folder):
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder).chmod(0o777)
    (tmp_path / "site.yaml").write_text("cluster: local")
    path = write_experiment(tmp_path, **SMALL)
    words = ["submit", str(path), "--on", str(tmp_path / "site.yaml"), "--root", str(tmp_path / "runs")]
    assert cli(words) == 2
    assert f"{folder}: has mode 0777, so others could change your jobs; chmod go-w it" in capfd.readouterr().err
    assert not list(tmp_path.rglob("config.yaml"))


def modes(root: Path) -> dict[str, set[str]]:
    """Permissions of all folders and files below, and who has them."""
    found: dict[str, set[str]] = {"folders": set(), "files": set()}
    for path in [root, *root.rglob("*")]:
        if not path.is_symlink():
            kind = "folders" if path.is_dir() else "files"
            found[kind].add(f"{stat.S_IMODE(path.stat().st_mode):04o}")
    return found


def finish(root: Path) -> RunDir:
    (run,) = wait_for(lambda: find_trials(root / "tiny"), 120, "the trial", until=lambda runs: runs[0].result.exists())
    return run


@pytest.mark.slow
@pytest.mark.parametrize("group_readable", [False, True])
def test_every_file_of_a_finished_run_has_the_permissions_of_the_site(tmp_path, group_readable):
    """The submitter's umask is the most open one; what counts is what the profile says."""
    site = tmp_path / "site.yaml"
    site.write_text(yaml.safe_dump({"cluster": "local", "group_readable": group_readable}))
    groups = {**SMALL, "checkpoint": {"every_steps": 2}, "tracking": {"every_steps": 2, "wandb": {"mode": "offline"}}}
    path, root = write_experiment(tmp_path, **groups), tmp_path / "runs"
    done = run_cli("submit", path, "--on", site, "--wait", "--root", root, umask=0)
    assert done.returncode == 0, done.stdout + done.stderr
    finish(root)
    assert run_cli("cancel", "tiny", "--yes", "--root", root, umask=0).returncode == 0
    if group_readable:
        (submission,) = (root / "tiny" / ".submissions").iterdir()
        assert modes(submission)["folders"] >= {"0700"}, "job files are for the user alone"
        found = modes(root)
        assert found["folders"] == {"0700", "0750"} and found["files"] <= {"0640", "0600"}
        run = finish(root)
        readable = [run.config, run.metrics, run.result, run.attempts, run.jobs, run.log(1, 0)]
        assert {stat.S_IMODE(each.stat().st_mode) for each in readable} == {0o640}
    else:
        assert modes(root) == {"folders": {"0700"}, "files": {"0600"}}


def test_the_end_of_a_job_is_not_judged_from_an_open_folder(jobs, capfd):
    """The list of trials may name any folder."""
    (jobs.parent / "trials.txt").write_text(f"{jobs}\n")
    words = ["end", str(jobs.parent / "trials.txt"), "0", "7", "7.0", "1", "3"]
    jobs.parents[2].chmod(0o777)
    assert requeue.main(words) == 2
    assert "tiny: has mode 0777" in capfd.readouterr().err
    assert sorted(path.name for path in jobs.parent.iterdir()) == ["jobs", "trials.txt"]


@pytest.mark.slow
def test_every_file_of_a_run_on_slurm_is_the_users_own(tmp_path, slurm):
    secret = "sentinel" + "0123456789abcdef" * 2
    site = tmp_path / "site.yaml"
    site.write_text("{cluster: slurm, partition: low, time_minutes: 30, memory_gb: 1.5, setup: [umask 0]}")
    path, root = write_experiment(tmp_path, **SMALL), tmp_path / "runs"
    environment = os.environ | {"LAB_TOKEN": secret}
    done = run_cli("submit", path, "--on", site, "--wait", "--root", root, umask=0, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    finish(root)
    assert modes(root) == {"folders": {"0700"}, "files": {"0600"}}
    assert not [path for path in root.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


def test_a_debug_run_is_the_users_own(tmp_path):
    path = write_experiment(tmp_path, **SMALL)
    assert run_cli("debug", path, "--root", tmp_path / "runs", umask=0).returncode == 0
    assert modes(tmp_path / "runs") == {"folders": {"0700"}, "files": {"0600"}}
