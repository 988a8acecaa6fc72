"""Searches whose trials are not trained: their run folders, and a function that stands for the training."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from runner.experiment import load_experiment
from runner.files import append_row, read_json, write_json
from runner.prepare import prepare
from runner.rundir import RunDir
from runner.search import ask, journal_of, read_search, tell
from runner.search_config import SearchConfig
from runner.sweep import trials
from tests.experiments import write_experiment

METRIC = "test/knn_top1"
PARAMETERS = {
    "optimizer.lr": {"loguniform": [1e-6, 1.0]},
    "method.gamma": {"uniform": [0.0, 10.0]},
    "encoder.widths": {"choice": [[8, 16], [8, 8]]},
}


def search_block(count: int, **options: Any) -> dict[str, Any]:
    options = {"metric": METRIC, "direction": "maximize", "parameters": PARAMETERS, **options}
    return {"search": {"trials": count, **options}}


def make_runs(folder: Path, count: int, **options: Any) -> list[RunDir]:
    """The run folders of a search, none of whose trials has started."""
    folder.mkdir(exist_ok=True)
    block = search_block(count, **options)
    path = write_experiment(folder, sweep=block, evaluate={"probes": ["knn"], "every_steps": 5})
    runs = []
    for variant, trial in trials(load_experiment(path)):
        runs.append(RunDir(folder / "runs" / trial.name / variant.trial_id))
        prepare(runs[-1], trial, variant.overrides, ({}, ""))
    return runs


def search_of(run: RunDir) -> SearchConfig:
    found = read_search(run)
    assert found is not None
    return found


def told(run: RunDir) -> dict[str, Any]:
    document = read_json(run.search)
    assert document is not None
    parameters: dict[str, Any] = document["parameters"]
    return parameters


def objective(parameters: dict[str, Any]) -> float:
    """Best, 0, at a learning rate of 1e-3, gamma 4 and widths [8, 16]."""
    distance = (math.log10(parameters["optimizer.lr"]) + 3) ** 2 + 0.2 * (parameters["method.gamma"] - 4) ** 2
    return -distance - (0.0 if parameters["encoder.widths"] == [8, 16] else 3.0)


def finish(run: RunDir, *values: float, pruned: bool = False) -> None:
    """End a trial as the trainer does, with a value of the metric at each evaluation."""
    for index, value in enumerate(values):
        append_row(run.metrics, {"step": 5 * index + 5, "time": 0.0, "attempt": 1, METRIC: value}, sync=False)
    write_json(run.result, {"state": "done", "pruned": pruned, "step": 20, "metrics": {METRIC: values[-1]}})


def work_off(runs: list[RunDir], function: Callable[[dict[str, Any]], float] = objective) -> list[float]:
    """Ask for, measure and tell of one trial after the other; the values."""
    values = []
    for run in runs:
        values.append(function(ask(search_of(run), run).parameters))
        finish(run, values[-1])
        tell(search_of(run), run.path.parent)
    return values


def read_journal(runs: list[RunDir]) -> list[optuna.trial.FrozenTrial]:
    """The trials of a search as Optuna itself reads them from its journal."""
    journal = journal_of(runs[0].path.parent, search_of(runs[0]).study)
    storage = JournalStorage(JournalFileBackend(str(journal)))
    (study,) = optuna.get_all_study_summaries(storage)
    return optuna.load_study(study_name=study.study_name, storage=storage).get_trials()
