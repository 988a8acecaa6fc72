"""Files decide; the scheduler is asked once, about what files leave open, and not believed against a file."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from rich.console import Console

from runner.cli import run as cli
from runner.conditions import parse_condition
from runner.errors import SubmissionError
from runner.files import append_row, write_json
from runner.processes import is_alive
from runner.record import Record, main_metric, read_end, read_record
from runner.retry import retry
from runner.rundir import RunDir, find_trials
from runner.selectors import select
from runner.status import Job, decide_state, read_statuses
from runner.survey import read_world
from runner.watch import Watch, changes, status_table, wait_until_final
from tests.slurm_cluster import sbatch, wait_for
from tests.trials import SUBMITTED, end, local_job, make_trial, slurm_job, start

CONTRACT = "experiment,trial,overrides,state,step,steps,attempts,preemptions,job_id,metric,updated"
ADDED = "note,blocked"

PREEMPTED = [start(1), end(1, 120, "preempted", requeue=True)]
RESULT = {"state": "done", "step": 500, "metrics": {}}
FAILURE = {"cause": "user code", "rank": 1, "error": "ValueError: no"}


class Slurm:
    """A scheduler that answers from a dictionary and counts how often it is asked."""

    def __init__(self, **jobs: Job) -> None:
        self.jobs, self.questions = jobs, []

    def __call__(self, job_ids):
        self.questions.append(job_ids)
        return {job_id: self.jobs[f"j{job_id}"] for job_id in job_ids if f"j{job_id}" in self.jobs}


def slurm_is_silent(job_ids):
    raise SubmissionError("squeue: Unable to contact slurm controller")


@pytest.mark.parametrize(
    ("record", "job", "state"),
    [
        (Record(), None, "pending"),
        (Record(), Job("waiting", "Priority"), "pending"),
        (Record(), Job("running"), "running"),
        (Record(attempts=[start(1)]), Job("running"), "running"),
        (Record(attempts=PREEMPTED), Job("running"), "running"),
        (Record(attempts=PREEMPTED), Job("running", "COMPLETING"), "requeued"),
        (Record(attempts=PREEMPTED), Job("waiting", "BeginTime"), "requeued"),
        (Record(attempts=[start(1)]), Job("waiting"), "requeued"),
        (Record(result=RESULT), None, "done"),
        (Record(result=RESULT), Job("ended", "Slurm: FAILED"), "done"),
        (Record(result=RESULT, cancelled=True, failure=FAILURE), None, "done"),
        (Record(failure=FAILURE), None, "failed"),
        (Record(failure=FAILURE, cancelled=True), None, "cancelled"),
        (Record(cancelled=True), Job("running"), "cancelled"),
        (Record(attempts=PREEMPTED), Job("ended", "Slurm: PREEMPTED"), "failed"),
        (Record(attempts=[start(1)]), Job("ended", "Slurm: OUT_OF_MEMORY"), "failed"),
        (Record(attempts=[start(1)]), Job("ended", "Slurm: CANCELLED"), "cancelled"),
        (Record(attempts=[start(1)]), Job("ended", "Slurm: COMPLETED"), "unknown"),
        (Record(attempts=[start(1)]), Job("gone", "Slurm knows no job 7_0"), "unknown"),
        (Record(attempts=[start(1)]), Job("silent", "squeue not found"), "unknown"),
        (Record(attempts=[start(1)]), None, "unknown"),
    ],
)
def test_state_is_a_function_of_files_and_job(record, job, state):
    assert decide_state(record, job)[0] == state


def test_a_row_has_the_keys_of_the_contract(tmp_path):
    metrics = [{"step": 100, "time": 1.0, "attempt": 1, "train/loss": 2.0, "test/linear_top1": 0.5}]
    metrics += [{"step": 120, "time": 2.0, "attempt": 1, "train/loss": 1.5}]
    attempts = [*PREEMPTED, start(2, 120, at=9)]
    overrides = {"method.gamma": 1.0, "train.seed": 2}
    run = make_trial(tmp_path, "a1", overrides=overrides, job=slurm_job(), attempts=attempts, metrics=metrics)
    (row,) = read_statuses([run], Slurm(j7_0=Job("running")))
    document = row.as_json()
    assert ",".join(document) == f"{CONTRACT},{ADDED}"
    assert time.time() - document.pop("updated") < 60
    assert document == {
        "experiment": "exp",
        "trial": "a1",
        "overrides": overrides,
        "state": "running",
        "step": 120,
        "steps": 500,
        "attempts": 2,
        "preemptions": 1,
        "job_id": "7_0",
        "metric": {"test/linear_top1": 0.5},
        "note": "",
        "blocked": False,
    }


def test_one_question_and_only_for_trials_without_a_final_file(tmp_path):
    runs = [make_trial(tmp_path, f"t{i}", job=slurm_job(f"7_{i}")) for i in range(3)]
    runs.append(make_trial(tmp_path, "done", job=slurm_job("7_3"), result={}))
    runs.append(make_trial(tmp_path, "new"))
    slurm = Slurm(j7_0=Job("running"), j7_1=Job("waiting", "Resources"))
    rows = read_statuses(runs, slurm)
    assert [row.state for row in rows] == ["running", "pending", "unknown", "done", "pending"]
    assert slurm.questions == [["7_0", "7_1", "7_2"]]
    assert "knows no job 7_2" in rows[2].note and "runner retry" in rows[2].note


def test_no_question_when_files_settle_all(tmp_path):
    runs = [make_trial(tmp_path, "a", job=slurm_job(), result={}), make_trial(tmp_path, "b", failure=FAILURE)]
    assert [row.state for row in read_statuses(runs, slurm_is_silent)] == ["done", "failed"]


def test_silent_slurm_is_said_and_nothing_is_guessed(tmp_path):
    run = make_trial(tmp_path, "a", job=slurm_job(), attempts=[start(1)])
    (row,) = read_statuses([run], slurm_is_silent)
    assert row.state == "unknown" and "Unable to contact" in row.note and not row.settled


def test_machine_without_slurm(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    (row,) = read_statuses([make_trial(tmp_path, "a", job=slurm_job())])
    assert row.state == "unknown" and "squeue not found" in row.note


def test_a_result_written_while_the_scheduler_was_asked_counts(tmp_path):
    run = make_trial(tmp_path, "a", job=slurm_job(), attempts=[start(1)])

    def ask(job_ids):
        write_json(run.result, {**RESULT, "metrics": {"test/knn_top1": 0.5}})
        return {"7_0": Job("ended", "Slurm: COMPLETED")}

    (row,) = read_statuses([run], ask)
    assert row.state == "done" and row.metric == {"test/knn_top1": 0.5}


def test_local_trials_by_the_queue_process(tmp_path):
    queue = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        job = local_job(queue.pid, psutil.Process(queue.pid).create_time())
        runs = [
            make_trial(tmp_path, "waits", job=job),
            make_trial(tmp_path, "runs", job=job, attempts=[start(1)]),
            make_trial(tmp_path, "again", job=job, attempts=PREEMPTED),
            make_trial(tmp_path, "resubmitted", job=job, attempts=[start(1, at=-50)]),
            make_trial(tmp_path, "reused", job=local_job(queue.pid, 12345.0), attempts=[start(1)]),
            make_trial(tmp_path, "elsewhere", job={**job, "host": "other"}, attempts=[start(1)]),
        ]
        states = ["pending", "running", "requeued", "requeued", "unknown", "unknown"]
        assert [row.state for row in read_statuses(runs)] == states
    finally:
        queue.communicate(b"\n")
    rows = read_statuses(runs)
    assert {row.state for row in rows} == {"unknown"}
    assert "local queue" in rows[1].note and "other" in rows[5].note
    assert [row.settled for row in rows] == [True] * 5 + [False]


def test_ranks_that_outlive_their_queue_are_running(tmp_path):
    own = {"pid": os.getpid(), "pid_created": psutil.Process().create_time()}
    dead = local_job(2**22 + 1)
    runs = [
        make_trial(tmp_path, "alive", job=dead, attempts=[{**start(1), **own}]),
        make_trial(tmp_path, "reused", job=dead, attempts=[{**start(1), **own, "pid_created": 12345.0}]),
        make_trial(tmp_path, "left", job=dead, attempts=[{**start(1), **own}, end(1, 5, "terminated")]),
        make_trial(tmp_path, "old", job=dead, attempts=[start(1)]),
    ]
    rows = read_statuses(runs)
    assert [row.state for row in rows] == ["running", "unknown", "unknown", "unknown"]
    assert [row.settled for row in rows] == [False, True, True, True] and "has ended" in rows[0].note


def test_what_is_no_checkpoint_is_no_progress(tmp_path):
    run = make_trial(tmp_path, "a", checkpoints=["step_00000100.00001"])
    (run.checkpoints / "step_99999999.00009").mkdir()
    run.overrides.write_text("a: [1")
    (row,) = read_statuses([run])
    assert row.record.step == 100 and row.record.overrides == {}


def test_a_zombie_is_not_alive():
    child = subprocess.Popen([sys.executable, "-c", ""])
    created = psutil.Process(child.pid).create_time()
    assert is_alive(child.pid, created)
    wait_for(lambda: psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE, 20, "the child to end")
    assert not is_alive(child.pid, created)
    child.wait()
    assert not is_alive(child.pid, created)


def test_step_is_the_newest_anyone_knows_of(tmp_path):
    checkpoints = ["step_00000100.00001", "step_00000300.00002", ".step_00000400.tmp"]
    assert read_record(make_trial(tmp_path, "a", checkpoints=checkpoints)).step == 300
    assert read_record(make_trial(tmp_path, "b", attempts=PREEMPTED)).step == 120
    assert read_record(make_trial(tmp_path, "c", attempts=PREEMPTED, result={})).step == 500
    assert read_record(make_trial(tmp_path, "d")).step is None


def test_torn_and_long_metrics(tmp_path):
    rows = [{"step": i, "time": 0.0, "attempt": 1, "train/loss": 1 / (i + 1)} for i in range(3000)]
    rows[2990]["test/linear_top1"] = 0.9
    run = make_trial(tmp_path, "a", metrics=rows)
    assert run.metrics.stat().st_size > 2 * 65536
    with run.metrics.open("a") as file:
        file.write('{"step": 3000, "trai')
    record = read_record(run)
    assert record.step == 2999 and record.metrics == {"test/linear_top1": 0.9, "train/loss": 1 / 3000}


def test_main_metric():
    assert main_metric(["train/loss", "test/knn_top1", "test/linear_top1"]) == "test/linear_top1"
    assert main_metric(["train/loss", "test/f1", "test/knn_top1"]) == "test/knn_top1"
    assert main_metric(["train/lr", "train/loss", "test/f1"]) == "test/f1"
    assert main_metric(["train/lr", "train/loss"]) == "train/loss"
    assert main_metric(["train/lr"]) == "train/lr"
    assert main_metric([]) is None


def test_a_thousand_trials_take_no_time(tmp_path):
    (tmp_path / "exp").mkdir()
    template = make_trial(
        tmp_path,
        "template",
        "other",
        overrides={"method.gamma": 0.5, "train.seed": 3},
        job=slurm_job(),
        attempts=[*PREEMPTED, start(2, 120)],
        metrics=[{"step": i, "time": 0.0, "attempt": 1, "train/loss": 1.5, "test/knn_top1": 0.5} for i in range(1000)],
        checkpoints=["step_00000100.00001"],
    )
    files = {path.name: path.read_bytes() for path in template.path.iterdir() if path.is_file()}
    for i in range(1000):
        run = RunDir(tmp_path / "exp" / f"t{i:04d}")
        (run.checkpoints / "step_00000100.00001").mkdir(parents=True)
        for name, content in files.items():
            (run.path / name).write_bytes(content)
        append_row(run.jobs, {**slurm_job(f"8_{i}"), "time": SUBMITTED, "submission": "s"})
    slurm = Slurm(**{f"j8_{i}": Job("running") for i in range(1000)})
    began = time.perf_counter()
    rows = read_statuses(find_trials(tmp_path / "exp"), slurm)
    seconds = time.perf_counter() - began
    print(f"1,000 trials: {seconds:.2f} s")
    assert len(rows) == 1000 and {row.state for row in rows} == {"running"} and len(slurm.questions) == 1
    assert seconds < 4  # 0.4 s alone on two cores

    for run in find_trials(tmp_path / "exp"):
        for path in (run.path, run.checkpoints, run.attempts, run.jobs, run.metrics):
            os.utime(path, (SUBMITTED, SUBMITTED))
    watch = Watch([row.run for row in rows], slurm)
    watch.sights(watch.refresh(), time.time())
    began, reads, questions = time.process_time(), watch.read.reads, len(slurm.questions)
    sights = watch.sights(watch.refresh(), time.time())
    seconds = time.process_time() - began
    print(f"looked at again: {seconds:.2f} s")
    assert len(sights) == 1000 and watch.read.reads == reads and len(slurm.questions) == questions + 1
    assert seconds < 1  # 0.04 s alone


def test_slurm_answers_for_a_whole_sweep(slurm, tmp_path):
    array = sbatch(
        "-w",
        slurm.nodes[0],
        "--array=0-2",
        "-o",
        "/dev/null",
        "--wrap",
        "[ $SLURM_ARRAY_TASK_ID = 0 ] && exit 3; sleep 60",
    )
    held = sbatch("--hold", "--wrap", "true")
    ids = [f"{array}_0", f"{array}_1", f"{array}_2", held, "999999"]
    runs = [make_trial(tmp_path, f"t{i}", job=slurm_job(job_id)) for i, job_id in enumerate(ids)]

    def states():
        return [row.state for row in read_statuses(runs)]

    try:
        wait_for(
            states,
            30,
            "states",
            until=lambda found: found == ["failed", "running", "running", "pending", "unknown"],
        )
        subprocess.run(["scancel", f"{array}_1"], check=True)
        wait_for(states, 30, "the cancelled one", until=lambda found: found[1] == "cancelled")
    finally:
        subprocess.run(["scancel", array, held], check=True)


def test_waiting_tells_each_change_once(tmp_path):
    run = make_trial(tmp_path, "a1b2c3", job=slurm_job())
    story = iter(
        [
            (Job("waiting"), lambda: append_row(run.attempts, start(1))),
            (
                Job("running"),
                lambda: append_row(run.attempts, PREEMPTED[1] | {"signal_to_saved_seconds": 0.214}),
            ),
            (Job("waiting", "BeginTime"), lambda: append_row(run.attempts, start(2, 120, at=20))),
            (Job("running"), lambda: write_json(run.result, {**RESULT, "metrics": {"test/knn_top1": 0.5}})),
        ]
    )

    def ask(job_ids):
        job, then = next(story)
        then()
        return {"7_0": job}

    with (tmp_path / "out").open("w") as file:
        code = wait_until_final([run], ask, Console(file=file, width=200), every_seconds=0)
    clock = [time.strftime("%H:%M:%S", time.localtime(SUBMITTED + at)) for at in (1, 2, 20)]
    lines = (tmp_path / "out").read_text().splitlines()
    assert code == 0
    assert lines[:3] == [
        f"{clock[0]} a1b2c3 running on node1, attempt 1 from step 0",
        f"{clock[1]} a1b2c3 preempted at step 120, saved in 0.21 s, requeued",
        f"{clock[2]} a1b2c3 running on node1, attempt 2 from step 120",
    ]
    assert lines[3].endswith(" a1b2c3 done at step 500, test/knn_top1 0.5")
    assert lines[4:] == ["1 done"]


def test_what_ended_before_anybody_looked_is_no_news(tmp_path):
    run = make_trial(tmp_path, "a", result={}, job=slurm_job(), attempts=[start(1), PREEMPTED[1], start(2, 120)])
    with (tmp_path / "out").open("w") as file:
        assert wait_until_final([run], console=Console(file=file, width=200), every_seconds=0) == 0
    assert (tmp_path / "out").read_text() == "1 done\n"


@pytest.mark.parametrize("final", [{"failure": FAILURE}, {"cancelled": True}, {"job": local_job(2**22 + 1)}])
def test_waiting_ends_with_1_unless_all_are_done(tmp_path, final):
    runs = [make_trial(tmp_path, "good", result={}), make_trial(tmp_path, "bad", **final)]
    with open(os.devnull, "w") as file:
        assert wait_until_final(runs, console=Console(file=file), every_seconds=0) == 1


def test_waiting_goes_on_while_slurm_is_silent(tmp_path):
    run = make_trial(tmp_path, "a", job=slurm_job(), attempts=[start(1)])
    asked = []

    def ask(job_ids):
        asked.append(job_ids)
        if len(asked) == 3:
            write_json(run.result, RESULT)
        raise SubmissionError("squeue did not answer")

    with open(os.devnull, "w") as file:
        assert wait_until_final([run], ask, Console(file=file), every_seconds=0) == 0
    assert len(asked) == 3


def test_earlier_submissions_are_no_news(tmp_path):
    attempts = [start(1, at=-100), end(1, 100, "user code", at=-90), start(2, 100, at=5)]
    run = make_trial(tmp_path, "a", job=slurm_job(), attempts=attempts)
    lines = changes(read_statuses([run], Slurm(j7_0=Job("running"))), {})
    assert len(lines) == 1 and lines[0].endswith("a running on node1, attempt 2 from step 100")


def test_table_shows_what_the_sweep_set_and_survives_markup(tmp_path):
    runs = [
        make_trial(
            tmp_path,
            "a",
            overrides={"method.gamma": 0.5, "data.name": "x"},
            job=slurm_job("7_0"),
            attempts=PREEMPTED,
        ),
        make_trial(tmp_path, "b", overrides={"method.gamma": "[red]", "data.name": "x"}, failure=FAILURE),
    ]
    console = Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    with console.file:
        console.print(status_table(read_statuses(runs, Slurm(j7_0=Job("waiting", "BeginTime")))))
    text = console.export_text()
    assert "gamma" in text and "[red]" in text and "data.name" not in text and " x " not in text
    assert "120/500" in text and "1 (1 preempted)" in text and "BeginTime" in text
    assert "user code: ValueError: no" in text and "1 requeued, 1 failed" in text


def test_columns_are_the_settings_that_differ_whoever_set_them(tmp_path):
    """A file that was submitted again with another value in it leaves no word in the overrides."""
    for trial, lr, seed in (("a", 0.1, 0), ("b", 0.1, 1), ("c", 0.2, 1)):
        run = make_trial(tmp_path, trial, overrides={"train.seed": seed})
        config = {"name": "exp", "optimizer": {"lr": lr, "momentum": 0.9}, "train": {"steps": 500, "seed": seed}}
        run.config.write_text(yaml.safe_dump(config))
    other = make_trial(tmp_path, "d", experiment="other")
    other.config.write_text("name: other\noptimizer: {lr: 7.5, momentum: 0.7}\n")
    rows = read_statuses([*find_trials(tmp_path / "exp"), other])
    table = status_table(rows)
    heads = [str(column.header) for column in table.columns]
    assert heads[: heads.index("state")] == ["experiment", "trial", "seed", "lr"]
    assert [str(cell) for cell in table.columns[heads.index("lr")].cells] == ["0.1", "0.1", "0.2", ""]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff\x00", b'{"state": "done"}', b'{"state": "done", "step": "x", "metrics": {}}'],
)
def test_a_damaged_result_is_unknown_and_names_the_file(tmp_path, content):
    run = make_trial(tmp_path, "a", job=slurm_job(), attempts=PREEMPTED)
    run.result.write_bytes(content)
    (row,) = read_statuses([run], slurm_is_silent)
    assert row.state == "unknown" and row.settled and str(run.result) in row.note and "\n" not in row.note
    assert "move the file away, then `runner retry`" in row.note
    plan = retry([run], None, patience_seconds=0)
    assert not plan.runs and plan.refused == [f"a: {row.note}"] and run.result.read_bytes() == content


def test_a_trial_with_a_result_is_done_whatever_else_is_damaged(tmp_path):
    run = make_trial(tmp_path, "a", job=slurm_job(), attempts=PREEMPTED, result={"test/knn_top1": 0.5})
    run.attempts.write_bytes(bytes(100))
    (row,) = read_statuses([run], slurm_is_silent)
    assert (row.state, row.settled, row.metric) == ("done", True, {"test/knn_top1": 0.5})
    assert row.note == f"{run.attempts}: no row of it can be read" and read_end(run).result is not None
    run.result.unlink()
    assert read_statuses([run], slurm_is_silent)[0].state == "unknown"


def test_a_trial_without_a_config_is_unknown_and_not_tried_again(tmp_path):
    """A submission makes its folder whole; a retry has nothing to go by."""
    run = make_trial(tmp_path, "a", job=slurm_job(), result={})
    run.config.unlink()
    (row,) = read_statuses(find_trials(tmp_path / "exp"), slurm_is_silent)
    assert (row.state, row.settled) == ("unknown", True) and row.note.startswith("config.yaml is missing; `runner subm")
    assert retry([run], None, patience_seconds=0).refused == [f"a: {row.note}"]
    assert not read_world(tmp_path / "exp").rows, "a plan has it as new"


def test_a_damaged_config_has_a_note_and_no_columns(tmp_path):
    runs = [make_trial(tmp_path, f"t{seed}", overrides={"train.seed": seed}, result={}) for seed in range(3)]
    for place, run in enumerate(runs):
        run.config.write_text(f"name: exp\nmethod: {{name: scl, gamma: 1}}\ntrain: {{seed: {place}, steps: 4}}\n")
    runs[1].config.write_text("name: exp\nmethod: {name: s")
    rows = read_statuses(runs, slurm_is_silent)
    assert [(row.state, row.as_json()["note"]) for row in rows] == [
        ("done", ""),
        ("done", "config.yaml is cut short"),
        ("done", ""),
    ]
    assert [column.header for column in status_table(rows).columns][:3] == ["trial", "seed", "state"]
    assert select(runs, [parse_condition("train.seed=1")]) == [runs[1]], "the sweep set it, whatever became of the file"


def odd_pipe(path):
    os.mkfifo(path)


@pytest.mark.parametrize("name", ["config.yaml", "overrides.yaml", "result.json", "metrics.jsonl", "attempts.jsonl"])
@pytest.mark.parametrize("make", [odd_pipe, Path.mkdir], ids=["a pipe", "a folder"])
@pytest.mark.parametrize("verb", ["status", "results", "report", "goodput"])
def test_one_odd_file_hides_no_other_trial(tmp_path, capsys, verb, make, name):
    """What waits for a writer is not waited for: run folders may be of others."""
    runs = [
        make_trial(tmp_path, f"t{seed}", overrides={"train.seed": seed}, result={"test/f1": 0.5}) for seed in (0, 1)
    ]
    (runs[0].path / name).unlink(missing_ok=True)
    make(runs[0].path / name)
    assert cli([verb, "exp", "--root", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert err == "" and (verb == "report" or "t1" in out)


def test_a_metric_that_is_no_number_is_damage(tmp_path):
    run = make_trial(tmp_path, "a", result={"test/f1": "0.5"})
    (row,) = read_statuses([run], slurm_is_silent)
    assert row.state == "done" and "test/f1 is no number" in row.note and row.record.metrics == {}


def test_who_is_shown_alone_still_has_its_settings(tmp_path):
    """What sets the trials of a sweep apart is found over the sweep; selectors choose rows."""
    runs = [make_trial(tmp_path, f"t{seed}", overrides={"train.seed": seed}, result={}) for seed in range(3)]
    rows = read_statuses(runs[1:2], slurm_is_silent)
    table = status_table(rows)
    assert [column.header for column in table.columns][:2] == ["trial", "seed"]
    assert [str(cell) for cell in table.columns[1].cells] == ["1"]
    (sight,) = Watch(runs[1:2]).sights(rows, 0.0)
    assert sight.settings == {"seed": "1"}


@pytest.mark.parametrize("verb", ["status", "results", "retry", "logs", "show"])
def test_a_damaged_file_is_one_line(tmp_path, capsys, verb):
    run = make_trial(tmp_path, "a", job=slurm_job(), failure=FAILURE)
    run.failure.write_bytes(b"{")
    code = cli([verb, "exp/a" if verb in ("logs", "show") else "exp", "--root", str(tmp_path)])
    out, err = capsys.readouterr()
    assert code == (2 if verb in ("retry", "logs") else 0) and "Traceback" not in err
    told = err if code else out
    if verb != "results":
        assert "failure.json" in told.replace("\n", "")
    assert "unknown" in out or code
