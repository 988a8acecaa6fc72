"""Trials of a search that are trained: the same bits as alone, one in its study at the end, pruned on all ranks."""

import signal
from pathlib import Path

import pytest
import yaml
from optuna.trial import FrozenTrial, TrialState

from runner import slurm as slurm_tools
from runner.experiment import load_experiment, load_trial
from runner.faults import Fault, Proof
from runner.files import read_json, read_rows
from runner.local_ranks import DONE, LocalRanks
from runner.prepare import prepare
from runner.reproduce import read_recipe
from runner.rundir import RunDir, find_trials
from runner.search import Told, journal_of, write_told
from runner.search_report import read_reports
from runner.status import read_statuses
from runner.sweep import trials
from tests.experiments import fingerprint, prepare_run, run_cli, train_here, write_experiment
from tests.searches import METRIC, finish, read_journal, search_block, search_of, told
from tests.slurm_trials import causes, job_of, preempt, submit, wait_for_step, wait_until_done

RATE = {"optimizer.lr": {"loguniform": [1e-4, 1e-2]}}
GROUPS = {
    "data": {"limit": 96},
    "train": {"steps": 12},
    "schedule": {"warmup_steps": 0},
    "evaluate": {"probes": ["knn"], "every_steps": 3},
    "tracking": {"every_steps": 3},
}
MEDIAN = {"name": "median", "startup_trials": 1, "warmup_evaluations": 1}


def make_runs(folder: Path, count: int, pruner=None, **groups) -> list[RunDir]:
    path = write_experiment(folder, sweep=search_block(count, parameters=RATE, pruner=pruner), **{**GROUPS, **groups})
    runs = []
    for variant, trial in trials(load_experiment(path)):
        runs.append(RunDir(folder / "runs" / trial.name / variant.trial_id))
        prepare(runs[-1], trial, variant.overrides, ({}, ""))
    return runs


def test_a_trial_of_a_search_is_what_its_parameters_are_alone(tmp_path):
    # At the last of four evaluations nobody is pruned any more, however good another one was.
    run, better = make_runs(tmp_path, 2, pruner=MEDIAN | {"warmup_evaluations": 3})
    write_told(better, Told(search_of(run).study, 1, {"optimizer.lr": 1e-3}))
    finish(better, 2.0, 2.0, 2.0, 2.0)
    train_here(run)
    alone = prepare_run(tmp_path / "alone", optimizer={"lr": told(run)["optimizer.lr"]}, **GROUPS)
    copied = RunDir(tmp_path / "copied" / "tiny" / "copied")
    prepare(copied, load_trial(run.config), {}, ({}, ""))
    for other in (alone, copied):
        train_here(other)
        assert fingerprint(other) == fingerprint(run)
    assert read_json(run.result)["pruned"] is False and not copied.search.exists()
    trial, _ = sorted(read_journal([run]), key=lambda trial: trial.user_attrs["number"])
    assert trial.state is TrialState.COMPLETE and trial.value == read_json(run.result)["metrics"][METRIC]
    assert list(trial.intermediate_values.values()) == [row[METRIC] for row in read_rows(run.metrics) if METRIC in row]


def launch(run: RunDir, number: int, world: int, *faults: Fault) -> list[int]:
    with LocalRanks(run, world, f"t.{number}", proof=Proof(faults=faults, prompt=True)) as ranks:
        return ranks.wait(120)


@pytest.mark.slow
@pytest.mark.ddp
def test_kills_leave_one_trial_in_the_study(tmp_path):
    runs = make_runs(tmp_path, 2)
    seen = []
    for number, place in enumerate(["search.drawn", "search.fixed", "search.tell"]):
        assert launch(runs[0], number, 1, Fault(place, "KILL")) == [-signal.SIGKILL]
        seen.append(read_json(runs[0].search))
    assert seen[0] is None and seen[1] is not None and seen[2] == seen[1]
    assert runs[0].result.exists() and not journal_of(runs[0].path.parent, seen[1]["study"]).exists()
    # Whoever asks next says how it ended.
    assert launch(runs[1], 0, 1) == [DONE]
    assert [(t.user_attrs["number"], t.state) for t in read_journal(runs)] == [(n, TrialState.COMPLETE) for n in (0, 1)]


@pytest.mark.slow
@pytest.mark.ddp
def test_a_pruned_trial_ends_at_one_step_on_all_ranks_whatever_interrupts_it(tmp_path):
    runs = make_runs(tmp_path, 3, pruner=MEDIAN, resources={"ranks": 2})
    # Nobody is as good as this.
    write_told(runs[0], Told(search_of(runs[0]).study, 0, {"optimizer.lr": 1e-3}))
    finish(runs[0], 2.0, 2.0, 2.0, 2.0)
    assert launch(runs[1], 0, 2) == [DONE, DONE]
    result = read_json(runs[1].result)
    # The first evaluation, at step 3, is that of the warm-up.
    assert (result["state"], result["pruned"], result["step"], result["steps"]) == ("done", True, 6, 12)
    assert [row["step"] for row in read_rows(runs[1].metrics)] == [3, 6]
    assert read_statuses([runs[1]])[0].note == "pruned at step 6"
    assert read_recipe(runs[1]).command[-2:] == ["--steps", "6"]

    write_told(runs[2], Told(search_of(runs[0]).study, 2, told(runs[1])))
    for number, place in enumerate(["search.prune", "search.pruned"]):
        assert launch(runs[2], number, 2, Fault(place, "KILL"))[0] == -signal.SIGKILL
    # It was decided: that nobody is better any more changes nothing.
    runs[0].result.unlink()
    assert launch(runs[2], 2, 2) == [DONE, DONE]
    assert fingerprint(runs[2]) == fingerprint(runs[1]) and read_json(runs[2].result)["step"] == 6
    assert [trial.state for trial in read_journal(runs)][1:] == [TrialState.PRUNED] * 2


def read_up_to_date(runs: list[RunDir]) -> list[FrozenTrial]:
    """The study after `runner search`: a trial is done before it tells, and may be about to."""
    read_reports(runs)
    return read_journal(runs)


@pytest.mark.slow
def test_a_search_on_the_local_queue_with_preemptions(tmp_path):
    path = write_experiment(tmp_path, sweep=search_block(2, parameters=RATE), rehearse={"at_step": 5}, **GROUPS)
    site = tmp_path / "here.yaml"
    site.write_text("{cluster: local, parallel: 2}")
    words = ["submit", path, "--on", site, "--root", tmp_path / "runs"]
    done = run_cli(*words, "--wait")
    assert done.returncode == 0 and "2 to submit" in done.stdout, done.stdout + done.stderr
    runs = find_trials(tmp_path / "runs" / "tiny")
    causes = [row["cause"] for run in runs for row in run.attempt_rows() if row["event"] == "end"]
    assert sorted(causes) == ["done", "done", "preempted"]
    for run in runs:
        assert load_trial(run.config).optimizer.lr == told(run)["optimizer.lr"]
        assert yaml.safe_load(run.overrides.read_text())["optimizer.lr"] == told(run)["optimizer.lr"]
    assert told(runs[0]) != told(runs[1])
    found = read_up_to_date(runs)
    assert sorted(trial.user_attrs["trial"] for trial in found) == [run.trial for run in runs]
    assert all(trial.state is TrialState.COMPLETE for trial in found)
    again = run_cli(*words)
    assert "0 to submit" in again.stdout, again.stdout + again.stderr


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.slurm
@pytest.mark.ddp
def test_a_search_as_one_array_with_a_preempted_element(slurm, tmp_path, profile):
    runs = submit(tmp_path, profile, sweep=search_block(3, parameters=RATE), train={"steps": 200})
    assert len({job_of(run).partition("_")[0] for run in runs}) == 1
    wait_for_step(runs[1], 20)
    before = read_json(runs[1].search)
    high = preempt(runs[1])
    for run in runs:
        wait_until_done(run)
    slurm_tools.cancel([high])
    assert causes(runs[1]) == ["preempted", "done"] and read_json(runs[1].search) == before
    found = read_up_to_date(runs)
    assert sorted(trial.user_attrs["trial"] for trial in found) == [run.trial for run in runs]
    assert all(trial.state is TrialState.COMPLETE for trial in found)
