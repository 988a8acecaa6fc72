"""The command line's contract: what it prints, where, and with which exit code."""

import json
import os
import resource
import signal
import subprocess
import sys

import pytest

from runner.cli import run
from tests.experiments import write_experiment
from tests.trials import end, local_job, make_trial, slurm_job, start

VERBS = [
    "debug",
    "submit",
    "plan",
    "apply",
    "status",
    "logs",
    "show",
    "cancel",
    "retry",
    "results",
    "plot",
    "report",
    "embed",
    "search",
    "goodput",
    "simulate",
    "export",
    "sync",
    "verify-resume",
    "rehearse",
    "doctor",
    "reproduce",
    "diff",
    "code",
    "new",
    "list",
    "init",
    "schema",
    "onebox",
    "data",
]
FAILURE = {"cause": "user code", "rank": 1, "error": "ValueError: no", "traceback": "/x/traceback.rank_1.txt"}
GONE = local_job(2**22 + 1)
"""A local queue that has ended."""


@pytest.fixture
def root(tmp_path):
    """A run root with a sweep of three trials and one trial of another experiment."""
    metrics = [{"step": 100, "time": 1.0, "attempt": 1, "train/loss": float("nan"), "test/knn_top1": 0.25}]
    attempts = [
        start(1),
        end(1, 100, "preempted", requeue=True, signal_to_saved_seconds=0.25),
        start(2, 100, at=9),
    ]
    make_trial(tmp_path, "aa11", "gamma", overrides={"train.seed": 0}, result={"test/knn_top1": 0.5})
    make_trial(tmp_path, "aa22", "gamma", overrides={"train.seed": 1}, result={"test/knn_top1": 0.7})
    failed = make_trial(
        tmp_path,
        "bb11",
        "gamma",
        overrides={"train.seed": 2},
        job=GONE,
        attempts=attempts,
        metrics=metrics,
        failure=FAILURE,
    )
    failed.log(2, 0).write_text("rank 0 waits\n")
    failed.log(2, 1).write_text("rank 1 raises\n")
    make_trial(tmp_path, "aa33", "other")
    return tmp_path


@pytest.fixture
def runner(root, capfd):
    """Run a command line on that root: (exit code, stdout, stderr)."""

    def call(*arguments):
        code = run([*arguments, "--root", str(root)])
        return code, *capfd.readouterr()

    return call


def test_help_names_every_verb(capfd):
    assert run(["--help"]) == 0
    listed = [line.split()[0] for line in capfd.readouterr().out.partition("Commands:")[2].splitlines() if line]
    assert listed == VERBS


def test_status_for_programs(runner):
    code, out, err = runner("status", "gamma", "--json")
    assert code == 0 and err == ""
    rows = json.loads(out)
    assert [(row["trial"], row["state"], row["metric"]) for row in rows] == [
        ("aa11", "done", {"test/knn_top1": 0.5}),
        ("aa22", "done", {"test/knn_top1": 0.7}),
        ("bb11", "failed", {"test/knn_top1": 0.25}),
    ]
    assert json.loads(runner("status", "--json")[1])[3]["experiment"] == "other"


def test_status_for_people(runner):
    code, out, _ = runner("status")
    assert code == 0 and "4 trials" not in out
    assert "2 done, 1 failed" in out and "1 pending" in out and "experiment" in out


def test_status_of_an_empty_root(tmp_path, capfd):
    assert run(["status", "--root", str(tmp_path)]) == 0
    assert "no trials under" in capfd.readouterr().out
    assert run(["status", "--json", "--root", str(tmp_path)]) == 0
    assert json.loads(capfd.readouterr().out) == []


def test_watch_ends_with_1_when_a_trial_failed(runner):
    code, out, _ = runner("status", "gamma", "--watch")
    assert code == 1 and out.splitlines()[-1] == "2 done, 1 failed"


def test_results_for_programs(runner):
    code, out, err = runner("results", "gamma", "--json")
    rows = json.loads(out)
    assert (
        code == 0
        and err == ""
        and [sorted(row) for row in rows] == [["metrics", "overrides", "settings", "state", "trial"]] * 3
    )
    assert rows[2]["metrics"] == {"train/loss": None, "test/knn_top1": 0.25} and rows[2]["state"] == "failed"
    (group,) = json.loads(runner("results", "gamma", "--over", "seed", "--json")[1])
    assert group["n"] == 2 and group["missing"] == [{"trial": "bb11", "state": "failed", "value": 2}]
    assert group["metrics"]["test/knn_top1"]["mean"] == pytest.approx(0.6)


def test_results_for_people_and_files(runner, tmp_path):
    code, out, _ = runner(
        "results", "gamma", "--over", "seed", "--csv", f"{tmp_path}/a.csv", "--plot", f"{tmp_path}/a.png"
    )
    assert code == 0 and "0.60 ± 0.14" in out and "seed 2: bb11 failed" in out
    assert (tmp_path / "a.csv").read_text().startswith("trials,done,") and (tmp_path / "a.png").stat().st_size > 5000


def test_show(runner):
    code, out, _ = runner("show", "bb")
    assert code == 0
    assert "preempted at step 100, saved in 0.25 s, requeued" in out
    assert (
        "ended without a word" in out and "rank 1: user code: ValueError: no" in out and "runner submit x.yaml" in out
    )
    document = json.loads(runner("show", "bb", "--json")[1])
    assert document["config"]["train"] == {"steps": 500} and document["trial"] == "bb11"
    assert [entry["attempt"] for entry in document["history"]] == [1, 2]
    assert document["history"][1]["why"].startswith("ended without a word")
    assert document["failure"] == FAILURE and document["jobs"][0]["job_id"] == GONE["job_id"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.yaml", b"a: [1"),
        ("config.yaml", b"\xff\xfe\x00"),
        ("config.yaml", b"- 1"),
        ("config.yaml", b"a: " + b"[" * 3000),
        ("config.yaml", b"a: &a [x, x]\nb: &b [*a, *a]\n"),
        ("provenance.json", b"{"),
    ],
)
def test_show_says_what_is_damaged_and_goes_on(runner, root, name, content):
    (root / "gamma" / "bb11" / name).write_bytes(content)
    code, out, err = runner("show", "bb")
    (told,) = [line for line in out.splitlines() if "cannot be read" in line]
    assert code == 0 and err == "" and told.startswith(f"{name} cannot be read: ")
    assert "rank 1: user code: ValueError: no" in out
    assert list(json.loads(runner("show", "bb", "--json")[1])["damaged"]) == [name]


def test_logs(runner):
    assert runner("logs", "bb11") == (0, "rank 1 raises\n", "")
    assert runner("logs", "gamma/bb", "--rank", "0") == (0, "rank 0 waits\n", "")
    assert runner("logs", "bb11", "--follow") == (0, "rank 1 raises\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "zz"], "trial 'zz': no trial under"),
        (
            ["show", "aa"],
            "trial 'aa': 3 trials start with it: gamma/aa11, gamma/aa22, other/aa33; give more of the id",
        ),
        (["cancel", "aa"], "trial 'aa': 3 trials start with it"),
        (["results", "nothing"], "sweep 'nothing': no trials of that name"),
        (["status", "nothing"], "'nothing': neither an experiment nor the start of a trial's id under"),
        (["logs", "bb11", "--attempt", "7"], "--attempt 7: trial bb11 has no log of it; there is: 2"),
        (["results", "gamma", "--over", "lr"], "--over lr: no trial of the sweep sets it"),
        (["results", "gamma", "--plot", "x.gif"], "x.gif: the suffix must be one of .png, .pdf, .svg"),
        (["cancel", "aa33"], "cancel 1 pending? stdin is no terminal to answer on; add --yes"),
        (["statsu"], "No such command 'statsu'"),
        (["status", "--nope"], "No such option: --nope"),
        (["show"], "Missing argument"),
        (["logs", "bb11", "--rank", "x"], "Invalid value for"),
        (["submit", "x.yaml"], "Missing option '--on'"),
        (["export", "aa11", "x.pt"], "checkpoint"),
    ],
)
def test_a_user_error_is_one_line_and_exit_code_2(runner, arguments, message):
    code, out, err = runner(*arguments)
    assert code == 2 and out == ""
    assert err.startswith("runner: ") and message in err and err.count("\n") == 1


def test_cancel_needs_a_yes_and_then_leaves_word(runner, root):
    assert runner("cancel", "aa33", "--yes") == (0, "cancelled 1 of 1 trial\n", "")
    assert (root / "other" / "aa33" / "cancelled.json").exists()
    assert runner("cancel", "other") == (0, "nothing to cancel: every trial is final\n", "")


def test_cancel_asks_at_a_terminal(root):
    here, there = os.openpty()
    command = [sys.executable, "-m", "runner", "cancel", "aa33", "--root", str(root)]
    process = subprocess.Popen(command, stdin=there, stdout=subprocess.PIPE)
    os.write(here, b"n\n")
    assert process.wait(30) == 0
    process.stdout.close()
    assert not (root / "other" / "aa33" / "cancelled.json").exists()
    process = subprocess.Popen(command, stdin=there, stdout=subprocess.PIPE)
    os.write(here, b"y\n")
    assert process.wait(30) == 0
    process.stdout.close()
    assert (root / "other" / "aa33" / "cancelled.json").exists()
    os.close(here)
    os.close(there)


def test_retry_with_nothing_to_do(runner):
    assert runner("retry", "aa11") == (0, "nothing to retry\n", "")


def test_retry_refuses_what_may_still_run(runner, root, monkeypatch):
    make_trial(root, "cc11", "lost", job=slurm_job(), attempts=[start(1)])
    monkeypatch.setenv("PATH", "/nonexistent")
    code, out, err = runner("retry", "lost")
    assert code == 2 and out == "" and "cc11: it may still be running: squeue not found" in err


def test_the_root_comes_from_the_option_the_environment_or_runs(root, monkeypatch, capfd, tmp_path):
    def trials():
        return [row["trial"] for row in json.loads(capfd.readouterr().out)]

    monkeypatch.setenv("RUNNER_ROOT", str(tmp_path / "empty"))
    assert run(["--root", str(root), "status", "other", "--json"]) == 0 and trials() == ["aa33"]
    monkeypatch.setenv("RUNNER_ROOT", str(root))
    assert run(["status", "other", "--json"]) == 0 and trials() == ["aa33"]
    monkeypatch.delenv("RUNNER_ROOT")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "runs").symlink_to(root)
    monkeypatch.chdir(tmp_path / "here")
    assert run(["status", "other", "--json"]) == 0 and trials() == ["aa33"]


def test_sweeps_and_trials_by_path(runner, root):
    assert len(json.loads(runner("results", f"{root}/gamma", "--json")[1])) == 3
    assert json.loads(runner("show", f"{root}/gamma/aa11", "--json")[1])["trial"] == "aa11"


def test_interruption_is_130(root):
    (root / "other" / "aa33" / "logs").mkdir(exist_ok=True)
    (root / "other" / "aa33" / "logs" / "attempt_001.rank_0.log").write_text("working\n")
    command = [sys.executable, "-m", "runner", "logs", "aa33", "--follow", "--root", str(root)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "working\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and "Traceback" not in err


def test_a_closed_pipe_is_no_error(root):
    (root / "gamma" / "aa11" / "logs" / "attempt_001.rank_0.log").write_text("line\n" * 1_000_000)
    command = f"{sys.executable} -m runner logs aa11 --root {root} | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=30)
    assert done.stdout == "line\n" and done.stderr == ""


@pytest.mark.parametrize("arguments", [["status", "--watch"], ["schema"], ["show", "bb11"], ["results", "gamma"]])
def test_every_verb_stops_quietly_when_nobody_reads(root, arguments):
    command = f"{sys.executable} -m runner {' '.join(arguments)} --root {root} | true; echo ${{PIPESTATUS[0]}}"
    command = command.replace(f" --root {root}", "") if arguments == ["schema"] else command
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=30)
    assert done.stdout in ("141\n", "0\n", "1\n") and done.stderr == ""


@pytest.mark.parametrize(
    ("target", "code", "message"),
    [(">/dev/full", 1, "runner: stdout: No space left on device\n"), (">&-", 0, ""), (">&- 2>&-", 0, "")],
)
def test_a_stdout_that_takes_nothing_is_no_traceback(root, target, code, message):
    command = f"{sys.executable} -m runner status gamma --root {root} {target}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", message)


@pytest.mark.parametrize(
    "verb", [["submit", "--on", "here.yaml"], ["debug"], ["plan", "--on", "here.yaml"], ["verify-resume"]]
)
def test_a_root_that_cannot_be_written_is_one_line(tmp_path, capfd, monkeypatch, verb):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.yaml").write_text("cluster: local")
    (tmp_path / "file").touch()
    path = write_experiment(tmp_path)
    assert run([verb[0], str(path), *verb[1:], "--root", str(tmp_path / "file")]) == 2
    assert capfd.readouterr().err == f"runner: --root {tmp_path}/file: is no folder; give another --root\n"


def test_files_are_private(root):
    command = [sys.executable, "-m", "runner", "cancel", "other", "--yes", "--root", str(root)]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    assert (root / "other" / "aa33" / "cancelled.json").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("arguments", [["--help"], ["status", "--help"], ["onebox", "--help"]])
def test_help_is_quick_and_imports_nothing_heavy(arguments):
    command = [sys.executable, "-X", "importtime", "-m", "runner", *arguments]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert done.returncode == 0
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "typer" in imported
    assert not imported & {
        "torch",
        "numpy",
        "submitit",
        "yaml",
        "rich",
        "matplotlib",
        "wandb",
        "psutil",
    }
    assert cpu_seconds < 1.5  # 0.1 s, whatever else the machine has to do


def test_status_does_not_import_torch(root):
    code = "import sys; from runner.cli import run; run(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    assert (
        subprocess.run(
            [sys.executable, "-c", code, "status", "--root", str(root)], capture_output=True, timeout=30
        ).returncode
        == 0
    )


def test_onebox_status_without_one(tmp_path, capfd):
    assert run(["onebox", "status", "--folder", str(tmp_path)]) == 2
    assert "no onebox there" in capfd.readouterr().err


def test_onebox_status_of_a_real_one(slurm, capfd):
    assert run(["onebox", "status", "--folder", str(slurm.folder)]) == 0
    assert "slurmctld" in capfd.readouterr().out


def test_doctor_fails_with_a_profile_that_is_not_there(capfd, tmp_path):
    assert run(["doctor", "--on", "nowhere", "--root", str(tmp_path)]) == 1
    assert "fail  profile" in capfd.readouterr().out


def test_schema_is_json(capfd):
    assert run(["schema"]) == 0
    assert "sweep" in json.loads(capfd.readouterr().out)["properties"]
