"""Submitting twice does nothing twice, a killed submission is completed, and a dry run touches nothing."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from runner import slurm
from runner.cli import run as cli
from runner.dispatch import exit_trap, sbatch_parameters
from runner.experiment import load_experiment
from runner.files import append_row, write_json
from runner.nodes import record_fault
from runner.prepare import choose_rehearsal, prepare
from runner.profile import load_profile
from runner.requeue import EXIT_OVER
from runner.rundir import RunDir, find_trials
from runner.status import is_alive
from runner.submission import SubmissionDir
from runner.submit import submit
from runner.sweep import expand, trials
from tests.experiments import prepare_run, write_experiment
from tests.slurm_cluster import wait_for

SMALL = {"data": {"limit": 128}, "train": {"steps": 6}, "schedule": {"warmup_steps": 0}, "tracking": {"every_steps": 2}}
SITE = {
    "cluster": "slurm",
    "partition": "gpu,preempt",
    "account": "lab",
    "gpus_per_node": 4,
    "time_minutes": 240,
    "memory_gb": 16,
    "parallel": 2,
    "signal_lead_seconds": 90,
    "max_failures": 5,
    "setup": ["module load cuda"],
}


@pytest.fixture
def site(tmp_path):
    path = tmp_path / "site.yaml"
    path.write_text(yaml.safe_dump(SITE))
    return path


def tree(folder: Path) -> dict[str, float]:
    """Every path below, with the time of its last change."""
    return {str(path): path.lstat().st_mtime_ns for path in sorted(folder.rglob("*"))}


def test_a_plan_reads_the_run_folders(tmp_path, site, monkeypatch):
    path = write_experiment(tmp_path, sweep={"seeds": [0, 1, 2, 3, 4]})
    pairs = trials(load_experiment(path))
    runs = [RunDir(tmp_path / "runs" / "tiny" / variant.trial_id) for variant, _ in pairs]
    for run, (variant, trial) in list(zip(runs, pairs, strict=True))[:4]:
        prepare(run, trial, variant.overrides, ({}, ""))
    write_json(runs[0].result, {"state": "done", "step": 6, "metrics": {}})
    write_json(runs[1].failure, {"cause": "user code", "error": "x"})
    for run in (runs[2], runs[4]):
        run.path.mkdir(exist_ok=True)
        append_row(run.jobs, {"time": 0, "submission": "s", "cluster": "local", "pid": 2**22 + 1, "job_id": "local-1"})
    plan = submit(path, [], str(site), tmp_path / "runs", True, ["runner"])
    found = {item.overrides["train.seed"]: (item.state, item.submits) for item in plan.items}
    assert found == {
        0: ("done", False),
        1: ("failed", False),
        2: ("unknown", True),  # its queue has ended
        3: ("new", True),  # a submission was killed before its job was asked for
        4: ("new", True),  # or before its config was there
    }
    assert plan.table().splitlines()[-1] == "tiny: 5 trials, 3 to submit"
    assert plan.runs == runs


@pytest.mark.parametrize(("gpus", "advised"), [(4, False), (None, True)])
def test_advice_is_about_where_the_trial_runs_and_not_about_the_login_node(tmp_path, site, capfd, gpus, advised):
    site.write_text(yaml.safe_dump(SITE | {"gpus_per_node": gpus}))
    path = write_experiment(tmp_path, train={"precision": "fp16"})
    assert cli(["submit", str(path), "--on", str(site), "--dry-run", "--root", str(tmp_path / "runs")]) == 0
    assert ("is slow on a CPU" in capfd.readouterr().err) is advised


def test_a_dry_run_prints_the_script_and_touches_nothing(tmp_path, site, capfd):
    path = write_experiment(tmp_path, sweep={"seeds": [0, 1, 2]}, resources={"ranks": 8})
    before = tree(tmp_path)
    assert cli(["submit", str(path), "--on", str(site), "--dry-run", "--root", str(tmp_path / "runs")]) == 0
    assert tree(tmp_path) == before
    out, err = capfd.readouterr()
    assert err == "" and "tiny: 3 trials, 3 to submit" in out
    script = out[out.index("#!/bin/bash") :]
    options = {line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH")}
    jobs = tmp_path / "runs" / "tiny" / ".submissions" / "NEW" / "jobs"
    assert options == {
        "job-name=tiny",
        "partition=gpu,preempt",
        "account=lab",
        "nodes=2",
        "ntasks-per-node=4",
        "gpus-per-node=4",
        "cpus-per-task=1",
        "mem=16384MB",
        "time=240",
        "signal=USR2@90",
        "array=0-2%2",
        "requeue",
        "open-mode=append",
        "wckey=submitit",
        f"output={jobs}/%A_%a_0_log.out",
        f"error={jobs}/%A_%a_0_log.err",
    }
    (srun,) = [line for line in script.splitlines() if line.startswith("srun ")]
    assert "--kill-on-bad-exit=1" in srun and "launcher.py -u -m submitit.core._submit" in srun
    assert script.index("module load cuda") < script.index("trap judge EXIT") < script.index(srun)
    checked = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
    assert checked.returncode == 0, checked.stderr


def test_the_trap_of_the_script_judges_every_end_but_a_good_one(tmp_path, site):
    """The lines as bash runs them, with a stand-in for python that tells its arguments."""
    folder = tmp_path / "exp" / ".submissions" / "x"
    lines = exit_trap(folder, load_profile(site))
    script = "\n".join(lines).replace(sys.executable, "echo judged:")

    def run(command: str, **environment: str) -> tuple[int, str]:
        text = f"{script}\n{command}"
        done = subprocess.run(["bash", "-c", text], env=environment, capture_output=True, text=True, timeout=20)
        return done.returncode, done.stdout.strip()

    def asked(when: str, index: int, job: str, launch: str, code: int) -> str:
        return f"judged: -m runner.requeue {when} {folder}/trials.txt {index} {job} {launch} {code} 5"

    assert run("true", SLURM_JOB_ID="7") == (0, "")
    assert run("exit 137", SLURM_JOB_ID="7") == (137, asked("end", 0, "7", "7.0", 137))
    array = {"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3", "SLURM_RESTART_COUNT": "2"}
    looks = asked("begin", 3, "7_3", "7_3.2", 0)
    assert run("false", **array) == (1, f"{looks}\n{asked('end', 3, '7_3', '7_3.2', 1)}")
    assert run("echo $RUNNER_SIGNAL_LEAD_SECONDS", SLURM_JOB_ID="7") == (0, "90")

    lines = exit_trap(folder, load_profile(site).model_copy(update={"notify": "mail me"}))
    script = "\n".join(lines).replace(sys.executable, "echo judged:")
    tells = f"judged: -m runner.notify {folder}"
    assert run("true", SLURM_JOB_ID="7") == (0, f"{tells} 0")
    assert run("false", **array) == (1, f"{looks}\n{asked('end', 3, '7_3', '7_3.2', 1)}\n{tells} 3")


def test_the_requeue_that_ends_the_script_leaves_it_time_to_judge(tmp_path, site):
    """scontrol requeue sends TERM to the batch shell and to all that it has started, while they wait and notify."""
    profile = load_profile(site).model_copy(update={"notify": "mail me"})
    script = "\n".join(exit_trap(tmp_path / "exp" / ".submissions" / "x", profile))
    requeue = 'kill -TERM $$; bash -c "kill -TERM \\$\\$; echo what it started goes on"'
    python_says = f'python_says() {{ [ "$2" = runner.notify ] || {{ {requeue}; }}; echo "$2"; }}'
    text = "\n".join([python_says, script.replace(sys.executable, "python_says"), "exit 137"])
    done = subprocess.run(["bash", "-c", text], env={"SLURM_JOB_ID": "7"}, capture_output=True, text=True, timeout=20)
    assert done.returncode == 137, done.stderr
    assert done.stdout.splitlines() == ["what it started goes on", "runner.requeue", "runner.notify"]


@pytest.mark.parametrize(("number", "runs"), [(None, True), ("7", True), ("8", False), ("0", False)])
def test_of_two_jobs_of_one_script_only_the_one_that_is_meant_runs(tmp_path, site, number, runs):
    """sbatch timed out, was asked again, and Slurm had taken both; 0: it was given up."""
    submission = SubmissionDir(tmp_path / "exp" / ".submissions" / "x")
    submission.jobs.mkdir(parents=True)
    submission.pickle.write_text("what to run")
    if number is not None:
        submission.number.write_text(f"{number}\n")
    text = "\n".join([*exit_trap(submission.path, load_profile(site)), "trap - EXIT", "echo ranks start"])
    environment = {
        "SLURM_JOB_ID": "9",
        "SLURM_ARRAY_JOB_ID": "7",
        "SLURM_ARRAY_TASK_ID": "3",
        "PATH": os.environ["PATH"],
    }
    done = subprocess.run(["bash", "-c", text], env=environment, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout) == (0, "ranks start\n" * runs)
    # What submitit looks for is there before any rank is.
    assert [path.read_text() for path in submission.jobs.glob("7_3_submitted.pkl")] == ["what to run"] * runs


@pytest.mark.parametrize(("answer", "code"), [(0, 0), (EXIT_OVER, 1), (1, 0), (137, 0)])
def test_ranks_start_again_unless_the_trial_is_over(tmp_path, site, answer, code):
    """A job that Slurm started again: only the one answer that says so keeps its ranks from starting."""
    folder = tmp_path / "exp" / ".submissions" / "x"
    script = "\n".join(exit_trap(folder, load_profile(site))).replace(sys.executable, "python_says")
    text = f'python_says() {{ [ "$3" != begin ] || return {answer}; }}\n{script}\necho ranks start'
    environment = {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "1"}
    done = subprocess.run(["bash", "-c", text], env=environment, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout) == (code, "" if code else "ranks start\n")


def test_bad_nodes_are_left_out_beside_those_of_the_profile(tmp_path, site, monkeypatch):
    (_, trial), *_ = trials(load_experiment(write_experiment(tmp_path)))
    folder = tmp_path / "runs" / "tiny" / ".submissions" / "x"
    profile = load_profile(site).model_copy(update={"exclude": "n[1-2]"})
    assert sbatch_parameters(trial.resources, profile, folder)["exclude"] == "n[1-2]"
    for name in ("a", "b"):
        record_fault(RunDir(tmp_path / "runs" / "tiny" / name), "lab", "n7", "node failure", "x")
    monkeypatch.setattr(slurm, "show_config", lambda: {"ClusterName": "lab"})
    assert sbatch_parameters(trial.resources, profile, folder)["exclude"] == "n[1-2],n7"
    monkeypatch.setattr(slurm, "show_config", lambda: {"ClusterName": "other"})
    assert sbatch_parameters(trial.resources, profile, folder)["exclude"] == "n[1-2]"


def test_the_job_is_called_after_its_experiment(tmp_path, site):
    (_, trial), *_ = trials(load_experiment(write_experiment(tmp_path)))
    folder = tmp_path / "runs" / "tiny" / ".submissions" / "x"
    assert sbatch_parameters(trial.resources, load_profile(site), folder)["job_name"] == "tiny"


OUTSIDE = {
    "resources": {"ranks": 2},
    "tracking": {"every_steps": 1},
    "checkpoint": {"keep": 1},
    "rehearse": {"at_step": 3},
}


@pytest.mark.parametrize("group", OUTSIDE)
def test_what_computes_the_same_keeps_its_name(tmp_path, group):
    def names(**groups):
        path = write_experiment(tmp_path, sweep={"seeds": [0, 1]}, **groups)
        return [variant.trial_id for variant in expand(load_experiment(path))]

    assert names() == names(**{group: OUTSIDE[group]}) != names(optimizer={"lr": 2e-3})


def test_only_the_first_trials_are_interrupted_on_purpose(tmp_path):
    path = write_experiment(tmp_path, rehearse={"at_step": 3, "trials": 2})
    (_, trial), *_ = trials(load_experiment(path))
    assert [choose_rehearsal(trial, index).rehearse is not None for index in range(4)] == [True, True, False, False]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optimizer.lrr=1"], "optimizer.lrr: unknown key"),
        (["method.gama=1"], "method.gama: unknown key"),
        (["method.name=sclr"], "method.name"),
        (["encoder.widths=7"], "encoder.widths"),
        (["optimizer.lr=-1"], "optimizer.lr: -1 is not allowed"),
        (["train.steps"], "train.steps"),
        (["resources.ranks=5"], "train.batch_size: 24 is not allowed; must be divisible by 5 ranks"),
        (["resources.ranks=5", "train.batch_size=25"], "resources.ranks: 5 is not allowed; cannot be spread evenly"),
        (["name=../x"], "name"),
        (
            ["init_from=nowhere.pt"],
            "override init_from=nowhere.pt: init_from: nowhere.pt does not exist",
        ),
        (["init_from=/"], "init_from: / is no file"),
        (["init_from=/dev/null"], "init_from: /dev/null is no file"),
        (["init_from=pyproject.toml"], "init_from: pyproject.toml is no exported trial: "),
        (["train.epochs=1000000001", "train.steps=null"], "1000000001 is not allowed; must be at most 1000000000"),
        (["train.batch_size=9999999999"], "9999999999 is not allowed; must be at most 1000000000"),
        (["train.steps=9999999999"], "9999999999 is not allowed; must be at most 1000000000"),
        (["sweep={seeds: []}"], "sweep.seeds: is empty; leave it out"),
        (["sweep={grid: {}}"], "sweep.grid: is empty; leave it out"),
        (["sweep={list: [], seeds: [1]}"], "sweep.list: is empty; leave it out"),
        (["sweep={grid: {train.seed: []}}"], "sweep.grid.train.seed: [] is not allowed; must have at least one entry"),
        (["--on", "nowhere"], "profile not found"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_and_nothing_is_submitted(tmp_path, site, capfd, words, message):
    path = write_experiment(tmp_path)
    before = tree(tmp_path)
    place = [] if "--on" in words else ["--on", str(site)]
    assert cli(["submit", str(path), *words, *place, "--root", str(tmp_path / "runs")]) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err and "Traceback" not in err
    assert tree(tmp_path) == before


def test_without_slurm_nothing_is_submitted_and_nothing_written(tmp_path, site, capfd, monkeypatch):
    path = write_experiment(tmp_path)
    command = ["submit", str(path), "--on", str(site), "--root", str(tmp_path / "runs")]
    monkeypatch.setenv("PATH", "/nonexistent")
    before = tree(tmp_path)
    assert cli(command) == 2
    assert capfd.readouterr().err.endswith(
        "sbatch is not on PATH; use --on slurm/local.yaml, or run this on a login node\n"
    )
    assert tree(tmp_path) == before
    assert cli([*command, "--dry-run"]) == 0
    assert "new" in capfd.readouterr().out, "a plan needs no Slurm"


KILLED = """
import os, signal, sys
from runner import cli, submit
submit.send = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
cli.main()
"""


@pytest.mark.slow
def test_submitting_again_and_at_once_trains_each_trial_once(tmp_path, capfd):
    """One submission is killed half-way, two follow at the same moment, and then a fourth."""
    secret = "sentinel" + "0123456789abcdef" * 2
    environment = os.environ | {"MY_API_KEY": secret, "WANDB_API_KEY": secret, "HOME": str(tmp_path / "home")}
    (tmp_path / "home").mkdir()
    (tmp_path / "local.yaml").write_text("{cluster: local, parallel: 2}")
    groups = {**SMALL, "tracking": {"every_steps": 2, "wandb": {"mode": "offline"}}}
    path = write_experiment(tmp_path, sweep={"seeds": [0, 1]}, **groups)
    root = tmp_path / "runs"
    words = ["submit", str(path), "--on", str(tmp_path / "local.yaml"), "--root", str(root)]
    killed = subprocess.run([sys.executable, "-c", KILLED, *words], env=environment, capture_output=True, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    runs = find_trials(root / "tiny")
    assert len(runs) == 2 and not any(run.jobs.exists() for run in runs) and (root / "tiny" / ".lock").exists()

    command = [sys.executable, "-m", "runner", *words]
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120)[0].splitlines()[-1] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(said) == ["tiny: 2 trials, 0 to submit", "tiny: 2 trials, 2 to submit"]
    assert cli([*words, "--wait"]) == 0
    out = capfd.readouterr().out
    assert "2 trials, 0 to submit" in out and "2 done" in out
    (queue,) = {(row["pid"], row["pid_created"]) for run in runs for row in run.job_rows()}
    wait_for(lambda: is_alive(*queue), 30, "the queue to end", until=lambda alive: not alive)
    for run in runs:
        assert len(run.job_rows()) == 1
        assert [row["event"] for row in run.attempt_rows()] == ["start", "end"]
        assert run.attempts.stat().st_mtime_ns <= run.result.stat().st_mtime_ns, "the result is written last"
    assert len(list((root / "tiny").glob("*/wandb/offline-run-*/*.wandb"))) == 2
    for path in [root, *root.rglob("*")]:
        if not path.is_symlink():
            mode = stat.S_IMODE(path.stat().st_mode)
            assert mode & 0o077 == 0, f"{path} {mode:o}"
            assert path.is_dir() or secret.encode() not in path.read_bytes(), path


@pytest.mark.slow
def test_two_retries_at_once_submit_a_failed_trial_once(tmp_path):
    (tmp_path / "local.yaml").write_text("cluster: local")
    run = prepare_run(tmp_path, **SMALL)
    write_json(run.failure, {"cause": "killed", "error": "x"})
    command = [sys.executable, "-m", "runner", "retry", "tiny", "--on", str(tmp_path / "local.yaml")]
    command += ["--root", str(tmp_path / "runs")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = sorted(process.communicate(timeout=120)[0] for process in both)
    assert said == ["nothing to retry\n", "submitted 1 of 1 trial again\n"]
    (job,) = run.job_rows()
    wait_for(lambda: is_alive(job["pid"], job["pid_created"]), 60, "the queue to end", until=lambda alive: not alive)
    assert [row["event"] for row in run.attempt_rows()] == ["start", "end"] and run.result.exists()
