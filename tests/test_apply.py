"""`runner apply` does what the plan showed and nothing else, on random worlds and on a real local queue."""

import io
import json
import os
import shutil
import time
from pathlib import Path
from tempfile import mkdtemp

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from runner import submit as submit_module
from runner.apply import apply
from runner.cli import run as cli
from runner.errors import ConfigError
from runner.experiment import load_experiment
from runner.files import append_row, read_json, write_json
from runner.prepare import prepare
from runner.request import read_request
from runner.rundir import RunDir, find_trials
from runner.status import read_statuses
from runner.sweep import trials
from tests.clients import in_child
from tests.experiments import write_experiment
from tests.slurm_cluster import wait_for

ALIVE = {"cluster": "local", "job_id": "local-1", "pid": os.getpid(), "pid_created": None, "host": os.uname().nodename}
GONE = {**ALIVE, "job_id": "local-2", "pid": 2**22 + 1}
ELSEWHERE = {**ALIVE, "job_id": "local-3", "host": "another-host"}
START = {"event": "start", "attempt": 1, "time": 2e9, "steps": 20, "start_step": 0}
END = {"event": "end", "attempt": 1, "time": 2e9, "cause": "preempted", "requeue": True, "end_step": 3}
KINDS = {
    "absent": (None, []),
    "killed submission": (None, []),
    "pending": (ALIVE, []),
    "running": (ALIVE, [START]),
    "requeued": (ALIVE, [START, END]),
    "done": (GONE, [START]),
    "failed": (GONE, [START]),
    "cancelled": (GONE, []),
    "lost": (GONE, [START]),
    "elsewhere": (ELSEWHERE, [START]),
    "damaged": (GONE, [START]),
}
EVERY = {"old": 4, "new": 5}
"""tracking.every_steps of what was submitted, and of the file."""


def place(root: Path, seed: int, kind: str, every: int) -> None:
    """One trial as a world has it."""
    (root / "old").mkdir(exist_ok=True)
    path = write_experiment(
        root / "old", tracking={"every_steps": every}, train={"seed": seed}, sweep={"seeds": [seed]}
    )
    ((variant, trial),) = trials(load_experiment(path))
    run, (job, attempts) = RunDir(root / "runs" / "tiny" / variant.trial_id), KINDS[kind]
    if kind == "absent":
        return
    prepare(run, trial, variant.overrides, ({}, ""))
    if job is not None:
        append_row(
            run.jobs, {"time": 0, "submission": str(run.path.parent / ".submissions" / "old"), **job}, sync=False
        )
    for row in attempts:
        append_row(run.attempts, row, sync=False)
    if kind == "done":
        write_json(run.result, {"state": "done", "step": 20, "metrics": {}})
    elif kind == "failed":
        write_json(run.failure, {"cause": "user code", "error": "x"})
    elif kind == "cancelled":
        write_json(run.cancelled, {"time": 0})
    elif kind == "damaged":
        run.result.write_text("torn")


def contents(folder: Path) -> dict[str, dict[str, bytes]]:
    """What is in each run folder, by trial."""
    return {
        run.trial: {
            str(path.relative_to(run.path)): path.read_bytes() for path in run.path.rglob("*") if path.is_file()
        }
        for run in find_trials(folder)
    }


TRIAL = st.tuples(st.sampled_from(sorted(KINDS)), st.sampled_from(sorted(EVERY)), st.booleans())


@settings(max_examples=25)
@given(st.lists(TRIAL, min_size=1, max_size=8).filter(lambda world: any(named for _, _, named in world)), st.booleans())
def test_apply_does_what_was_shown_and_nothing_else(world, prune):
    root = Path(mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None, prefix="runner-test-"))
    sent: list[str] = []

    def send(chosen, site, folder, *_):
        for run, _ in chosen:
            sent.append(run.trial)
            append_row(run.jobs, {"time": time.time(), "submission": "new", **ALIVE}, sync=False)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(submit_module, "send", send)
        patch.setattr(submit_module, "collect", lambda *_: ({}, ""))
        try:
            for seed, (kind, every, _) in enumerate(world):
                place(root, seed, kind, EVERY[every])
            (root / "local.yaml").write_text("cluster: local")
            seeds = [seed for seed, (_, _, named) in enumerate(world) if named]
            path = write_experiment(root, tracking={"every_steps": EVERY["new"]}, sweep={"seeds": seeds})
            request = read_request(path, [], str(root / "local.yaml"), root / "runs")
            before, plan = contents(request.folder), request.plan()
            assert contents(request.folder) == before, "a plan changes nothing"
            done = apply(request, plan, prune, ["runner"])
            after, again = contents(request.folder), request.plan()
            if done.submitted or done.updated or done.cancelled:
                with pytest.raises(ConfigError, match="the plan is out of date"):
                    apply(request, plan, prune, ["runner"])
            assert contents(request.folder) == after
        finally:
            shutil.rmtree(root)

    action_of = {item.trial: item.action for item in plan.items}
    assert sent == [trial for trial, action in action_of.items() if action == "submit"]
    for trial, action in action_of.items():
        old, new = before.get(trial, {}), after.get(trial, {})
        changed = {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}
        match action:
            case "submit":
                assert "jobs.jsonl" in changed and "result.json" not in new
                assert yaml.safe_load(new["config.yaml"])["tracking"]["every_steps"] == EVERY["new"]
            case "update":
                assert changed == {"config.yaml"}
                old_config, new_config = yaml.safe_load(old["config.yaml"]), yaml.safe_load(new["config.yaml"])
                assert new_config == old_config | {"tracking": old_config["tracking"] | {"every_steps": EVERY["new"]}}
            case "cancel":
                assert changed == ({"cancelled.json"} if prune else set())
            case _:
                assert not changed
    assert (done.submitted, done.updated) == (len(sent), sum(action == "update" for action in action_of.values()))
    assert not again.of("submit") and not again.of("update")


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A file that names trials 0, 1, 2; trial 0 is done, 2 and 3, which is gone from the file, are running."""
    for seed, kind in enumerate(["done", "absent", "running", "running"]):
        place(tmp_path, seed, kind, EVERY["new"])
    (tmp_path / "local.yaml").write_text("cluster: local")
    monkeypatch.setattr(submit_module, "send", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    return write_experiment(tmp_path, sweep={"seeds": [0, 1, 2]})


def words_of(world: Path, verb: str, *more: str) -> list[str]:
    return [verb, str(world), "--on", "local.yaml", *more]


def test_a_plan_is_shown_kept_and_applied(world, capfd):
    assert cli(words_of(world, "plan", "--out", "p.json")) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [(line[0], line.split()[2:4]) for line in lines[:-1]] == [
        ("+", ["new", "submit"]),
        ("-", ["running", "cancel"]),
        (">", ["running", "nothing"]),
        ("=", ["done", "nothing"]),
    ]
    assert lines[-1] == "tiny: 3 trials in the file: 1 new, 1 gone, 1 alive, 1 done; 1 to submit, 1 to cancel"
    assert cli(words_of(world, "plan", "--json")) == 0
    document = json.loads(capfd.readouterr().out)
    assert [item["mark"] for item in document["items"]] == ["=", "+", ">", "-"]
    assert cli(["apply", "p.json"]) == 0
    out, err = capfd.readouterr()
    assert out == "tiny: 1 submitted\n" and err == "runner: 1 that are gone from the file go on; --prune cancels them\n"
    gone = document["items"][-1]["trial"]
    assert not (world.parent / "runs" / "tiny" / gone / "cancelled.json").exists()


def test_a_removed_line_cancels_with_consent_alone(world, capfd):
    (gone,) = [run for run in find_trials(Path("runs/tiny")) if run.trial not in words_in_file(world)]
    assert cli(words_of(world, "apply")) == 2, "nobody is there to be asked"
    assert "submit 1? stdin is no terminal to answer on; add --yes" in capfd.readouterr().err
    assert cli(words_of(world, "apply", "--yes")) == 0 and not gone.cancelled.exists()
    assert cli(words_of(world, "apply", "--yes", "--prune")) == 0 and gone.cancelled.exists()
    assert capfd.readouterr().out.splitlines()[-1] == "tiny: 1 submitted, 1 cancelled"


class Terminal(io.StringIO):
    """Somebody who has typed some lines."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("typed", "said"), [("n\n", ""), ("y\nn\n", "1 submitted"), ("y\ny\n", "1 submitted, 1 cancelled")]
)
def test_cancelling_is_a_question_of_its_own(world, capfd, monkeypatch, typed, said):
    monkeypatch.setattr("sys.stdin", Terminal(typed))
    assert cli(words_of(world, "apply")) == 0
    out = capfd.readouterr().out
    assert "submit 1? [y/N]" in out and ("cancel 1 that are gone from the file (1 running)?" in out) is bool(said)
    assert out.splitlines()[-1].endswith(f"tiny: {said}" if said else "submit 1? [y/N]: ")


def words_in_file(path: Path) -> set[str]:
    return {variant.trial_id for variant, _ in trials(load_experiment(path))}


def test_a_plan_of_another_world_is_refused_in_one_line(world, capfd):
    def refused(words: str) -> None:
        before = contents(world.parent / "runs" / "tiny")
        assert cli(["apply", "p.json", "--prune"]) == 2
        out, err = capfd.readouterr()
        assert out == "" and err.count("\n") == 1 and "plan is out of date: " in err and words in err, err
        assert contents(world.parent / "runs" / "tiny") == before

    assert cli(words_of(world, "plan", "--out", "p.json")) == 0
    text = world.read_text()
    capfd.readouterr()
    world.write_text(text.replace("every_steps: 5", "every_steps: 9"))
    refused("file.tracking.every_steps was 5, is 9")
    world.write_text(text.replace("- 1\n", "- 7\n"))
    refused("was new (submit), is not there (+1 more)")
    world.write_text(text)
    Path("local.yaml").write_text("{cluster: local, parallel: 3}")
    refused("profile.parallel was 1, is 3")
    Path("local.yaml").write_text("cluster: local")
    (gone,) = [run for run in find_trials(Path("runs/tiny")) if run.trial not in words_in_file(world)]
    write_json(gone.result, {"state": "done", "step": 20, "metrics": {}})
    refused(f"trial {gone.trial}: was running as job local-1 and gone from the file (cancel), is done")
    gone.result.unlink()
    going = find_trials(Path("runs/tiny"))
    for run in going:
        if run.trial in words_in_file(world) and not run.result.exists():
            write_json(run.result, {"state": "done", "step": 20, "metrics": {}})
    assert cli(["apply", "p.json", "--prune"]) == 0, "what is left alone may have gone its way"
    assert cli(["apply", "p.json", "--on", "local.yaml"]) == 2
    assert "is a plan, which has its profile, overrides and root; leave them out" in capfd.readouterr().err


def test_new_settings_reach_what_is_submitted_again_and_nothing_that_runs(world, capfd):
    world.write_text(world.read_text().replace("every_steps: 5", "every_steps: 9"))
    assert cli(words_of(world, "plan")) == 0
    (line,) = [line for line in capfd.readouterr().out.splitlines() if line.startswith("~")]
    assert line.endswith("(tracking.every_steps 5 -> 9; keeps its settings until it is submitted again)")
    running, finished = (
        next(run for run in find_trials(Path("runs/tiny")) if run.trial in words_in_file(world) and test(run))
        for test in (lambda run: not run.result.exists(), lambda run: run.result.exists())
    )
    write_json(running.failure, {"cause": "user code", "error": "x"})
    kept = finished.config.read_bytes()
    assert cli(words_of(world, "apply", "--yes")) == 0
    assert yaml.safe_load(running.config.read_text())["tracking"]["every_steps"] == 9
    assert finished.config.read_bytes() == kept


@pytest.mark.nightly
@pytest.mark.slow
def test_a_live_sweep_is_edited(tmp_path, capfd, monkeypatch):
    """On a real queue: two of three trials are dropped while the first runs, another is added; each ends once."""
    monkeypatch.chdir(tmp_path)
    Path("local.yaml").write_text("{cluster: local, parallel: 1}")
    small = {"data": {"limit": 128}, "train": {"steps": 6}, "schedule": {"warmup_steps": 0}}

    def apply_seeds(*seeds: int, prune: bool = False) -> str:
        path = write_experiment(tmp_path, sweep={"seeds": list(seeds)}, **small)
        words = ["apply", str(path), "--on", "local.yaml", "--yes", *(["--prune"] if prune else [])]
        assert in_child(lambda: cli(words)) == 0
        return capfd.readouterr().out.splitlines()[-1]

    assert apply_seeds(0, 1, 2) == "tiny: 3 submitted"
    runs = {yaml.safe_load(run.overrides.read_text())["train.seed"]: run for run in find_trials(Path("runs/tiny"))}
    wait_for(runs[0].attempts.exists, 60, "the first trial to begin")
    assert apply_seeds(0, 3) == "tiny: 1 submitted", "without consent the two go on"
    assert apply_seeds(0, 3, prune=True) == "tiny: 2 cancelled"
    assert apply_seeds(0, 3) == "tiny: nothing done"
    runs = {yaml.safe_load(run.overrides.read_text())["train.seed"]: run for run in find_trials(Path("runs/tiny"))}
    wait_for(lambda: runs[0].result.exists() and runs[3].result.exists(), 120, "both to be done")
    assert {seed: row.state for seed, row in zip(runs, read_statuses(list(runs.values())), strict=True)} == {
        0: "done",
        1: "cancelled",
        2: "cancelled",
        3: "done",
    }
    assert [len(run.attempt_rows()) for run in (runs[0], runs[3])] == [2, 2]
    assert not runs[1].attempts.exists() and not runs[2].attempts.exists()
    assert (read_json(runs[0].result) or {})["step"] == 6
    assert apply_seeds(0, 1, 3) == "tiny: nothing done", "what was cancelled waits for `runner retry`"
