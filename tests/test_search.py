"""A search: run folders are the truth, the journal is a cache, and a trial is told its parameters once."""

import json
import shutil
import subprocess
import sys
from statistics import mean

import pytest
from optuna.trial import TrialState

from runner.cli import run as cli
from runner.errors import ConfigError
from runner.experiment import load_experiment, load_trial
from runner.explain import OptionError
from runner.faults import Fault, Faults, InjectedError
from runner.files import read_json, write_json
from runner.group import Group
from runner.preflight import check_same
from runner.prepare import prepare
from runner.results.trials import read_results
from runner.search import Told, as_drawn, ask, journal_of, read_study, tell, write_told
from runner.search_config import SearchOptions
from runner.search_report import read_reports
from runner.search_trial import check_metric, settle_parameters
from runner.status import read_statuses
from runner.study import Member, suggest
from runner.sweep import extremes, trials
from tests.experiments import write_experiment
from tests.searches import METRIC, finish, make_runs, objective, read_journal, search_block, search_of, told, work_off


def expand(folder, block, *overrides, **groups):
    path = write_experiment(folder, sweep=block, evaluate={"probes": ["knn"], "every_steps": 5}, **groups)
    experiment = load_experiment(path, overrides)
    pairs = trials(experiment)
    extremes(pairs, experiment.document)
    return pairs


def ids(pairs):
    return [variant.trial_id for variant, _ in pairs]


def test_a_trial_is_its_search_and_its_number(tmp_path):
    few = expand(tmp_path, search_block(3))
    assert [variant.overrides for variant, _ in few] == [{"search.number": n} for n in range(3)]
    assert ids(expand(tmp_path, search_block(5)))[:3] == ids(few)
    # What the file says of a parameter that is searched is never used, and a default that is spelled out is none.
    assert ids(expand(tmp_path, search_block(3, sampler="tpe"), "sweep.search.startup_trials=10")) != ids(few)
    assert ids(expand(tmp_path, search_block(3), optimizer={"lr": 0.5})) == ids(few)
    turned = {"encoder.widths": {"choice": [[8, 8], [8, 16]]}}
    parameters = search_block(3)["search"]["parameters"] | turned
    assert ids(expand(tmp_path, search_block(3, parameters=parameters))) == ids(few)
    assert not {*ids(expand(tmp_path, search_block(3, seed=1)))} & {*ids(few)}


def test_what_else_a_sweep_sets_makes_studies_of_their_own(tmp_path):
    block = {**search_block(2), "seeds": [0, 1], "grid": {"train.batch_size": [24, 48]}}
    pairs = expand(tmp_path, block)
    studies = {trial.search.study: (trial.train.seed, trial.train.batch_size) for _, trial in pairs}
    assert len(pairs) == 8 and len(studies) == 4 and len(set(studies.values())) == 4
    nested = {"grid": {"train.seed": [0, 1]}, "when": [{"if": {"train.seed": 1}, **search_block(2)}]}
    assert [trial.search is None for _, trial in expand(tmp_path, nested)] == [True, False, False]


def test_what_the_command_line_sets_is_not_searched(tmp_path):
    _, trial = expand(tmp_path, search_block(1), "optimizer.lr=0.5")[0]
    assert trial.optimizer.lr == 0.5 and "optimizer.lr" not in trial.search.parameters


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("sweep.search.trails=3", 'sweep.search.trails: unknown key; did you mean "trials"?'),
        ("sweep.search.sampler=cmaes", 'sweep.search.sampler: "cmaes" is not allowed; must be "tpe", "gp" or "random"'),
        ("sweep.search.direction=max", 'must be "maximize" or "minimize"'),
        ("sweep.search.pruner={name: median, percentile: 5}", "is no option of median; leave it out"),
        ("sweep.search.pruner={name: percentile}", "sweep.search.pruner.percentile: is missing"),
        ("sweep.search.metric=test/lineal_top1", "must begin with test/knn_ or train/"),
        ("sweep.search.parameters={}", "must have at least one entry"),
        (
            "sweep.search.parameters={optimizer.lrr: {uniform: [0, 1]}}",
            'optimizer.lrr: unknown key; did you mean "lr"?',
        ),
        ("sweep.search.parameters={method.gama: {uniform: [0, 1]}}", 'method.gama: unknown key; did you mean "gamma"?'),
        ("sweep.search.parameters={optimizer.lr: {uniform: [-1, 1]}}", "must be greater than 0"),
        ("sweep.search.parameters={resources.ranks: {int: [1, 2]}}", "is no part of a trial's id"),
        ("sweep.search.parameters={train.backend: {choice: [gloo]}}", "is used before a trial's parameters are drawn"),
        ("sweep.grid={optimizer.lr: [1]}", "optimizer.lr is set twice"),
        ("sweep.exclude=[{optimizer.lr: 1}]", "is searched, so nobody knows it before the trial starts"),
        ("search={trials: 3}", "belongs under sweep"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_submitted(tmp_path, capsys, change, told):
    path = write_experiment(tmp_path, sweep=search_block(2), evaluate={"probes": ["knn"]})
    site = tmp_path / "here.yaml"
    site.write_text("{cluster: local}")
    assert cli(["submit", str(path), change, "--on", str(site), "--root", str(tmp_path / "runs")]) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1 and not (tmp_path / "runs").exists()


def test_a_pruner_needs_evaluations_of_its_metric(tmp_path):
    pruner = {"name": "median"}
    for metric, without in ((METRIC, "every_steps"), ("train/loss", "the metric of an evaluation")):
        path = write_experiment(
            tmp_path, sweep=search_block(1, metric=metric, pruner=pruner), evaluate={"probes": ["knn"]}
        )
        with pytest.raises(ConfigError, match=f"search.pruner: needs .*{without}"):
            trials(load_experiment(path))
    with pytest.raises(OptionError, match='"test/knn_top2" was not measured; did you mean "test/knn_top1"'):
        check_metric(search_of(make_runs(tmp_path, 1, metric="test/knn_top2")[0]), {METRIC: 0.5})


def test_without_optuna_one_line_names_the_extra():
    code = "import sys; sys.modules['optuna'] = None; from runner.study import import_optuna; import_optuna()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "ConfigError: sweep.search: needs optuna: pip install -e '.[search]'" in done.stderr


def test_tpe_finds_the_best_of_a_known_function_and_random_does_not(tmp_path):
    runs = make_runs(tmp_path, 20)
    through_folders = work_off(runs)
    found = {}
    for sampler in ("tpe", "random"):
        options = search_of(runs[0]).model_copy(update={"sampler": sampler})
        found[sampler] = [measure(options.model_copy(update={"seed": seed}), 20) for seed in range(4)]
    # What folders and journal hold is all that a sampler knows.
    assert through_folders == found["tpe"][0]
    assert mean(map(max, found["tpe"])) > mean(map(max, found["random"])) / 2, found


def measure(search: SearchOptions, count: int) -> list[float]:
    """The values of trials that run one at a time, without any folders."""
    members: list[Member] = []
    for number in range(count):
        parameters = suggest(search, number, members)
        members.append(Member(str(number), number, parameters, "done", objective(parameters)))
    return [member.value for member in members]


def test_random_draws_what_a_random_sweep_would(tmp_path):
    run = make_runs(tmp_path, 4, sampler="random", seed=7)[3]
    parameters = search_of(run).model_dump(mode="json")["parameters"]
    sweep = {"random": {"samples": 4, "seed": 7, "parameters": parameters}}
    (variant, _) = trials(load_experiment(write_experiment(tmp_path, sweep=sweep)))[3]
    assert ask(search_of(run), run).parameters == variant.overrides


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_trials_that_run_at_the_same_time_are_told_different_things(tmp_path, sampler):
    runs = make_runs(tmp_path, 6, sampler=sampler, startup_trials=3)
    work_off(runs[:3])
    found = [ask(search_of(run), run).parameters for run in runs[3:]]
    assert len({json.dumps(each) for each in found}) == 3 and len({each["optimizer.lr"] for each in found}) > 1
    assert [trial.state for trial in read_journal(runs)].count(TrialState.RUNNING) == 3


def test_the_journal_is_a_cache_of_the_run_folders(tmp_path):
    runs = make_runs(tmp_path, 8)
    work_off(runs[:3])
    for run in runs[3:7]:
        ask(search_of(run), run)
    finish(runs[3], 0.1, 0.2)
    finish(runs[4], 0.1, 0.05, pruned=True)
    write_json(runs[5].failure, {"cause": "crash", "error": "x"})
    search, folder = search_of(runs[0]), runs[0].path.parent
    members = tell(search, folder)
    states = {trial.user_attrs["trial"]: trial.state for trial in read_journal(runs)}
    expected = [TrialState.COMPLETE] * 4 + [TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING]
    assert [states[run.trial] for run in runs[:7]] == expected
    assert members[3].reports == (0.1, 0.2) and members[3].value == 0.2

    journal = journal_of(folder, search.study)
    whole = journal.read_bytes()
    assert tell(search, folder) == members and journal.read_bytes() == whole
    for damage in (b"", whole[:-20], whole + b"{}\n", None):
        if damage is None:
            shutil.rmtree(journal.parent)
        else:
            journal.write_bytes(damage)
        assert tell(search, folder) == members, damage
        assert [trial.state for trial in read_journal(runs)] == expected, damage


def test_the_journal_follows_a_trial_that_is_retried_and_one_that_is_deleted(tmp_path):
    runs = make_runs(tmp_path, 3)
    work_off(runs[:1])
    ask(search_of(runs[1]), runs[1])
    search, folder = search_of(runs[0]), runs[0].path.parent
    seen = []
    for state in (None, "failed", "running", "done"):
        if state == "failed":
            write_json(runs[1].failure, {"cause": "crash", "error": "x"})
        elif state == "running":
            runs[1].failure.unlink()
        elif state == "done":
            finish(runs[1], 0.9)
        tell(search, folder)
        seen.append([trial.state for trial in read_journal(runs)][1])
    assert seen == [TrialState.RUNNING, TrialState.FAIL, TrialState.RUNNING, TrialState.COMPLETE]
    shutil.rmtree(runs[0].path)
    tell(search, folder)
    assert [trial.user_attrs["number"] for trial in read_journal(runs[1:])] == [1]


def test_a_metric_that_is_not_finite_is_a_failed_trial(tmp_path):
    runs = make_runs(tmp_path, 2)
    ask(search_of(runs[0]), runs[0])
    finish(runs[0], float("nan"))
    assert tell(search_of(runs[0]), runs[0].path.parent)[0].state == "failed"
    ask(search_of(runs[1]), runs[1])


@pytest.mark.parametrize("place", ["search.ask", "search.drawn", "search.fixed", "search.config"])
def test_a_trial_is_told_its_parameters_once_wherever_it_is_cut_off(tmp_path, place):
    runs = make_runs(tmp_path, 4, startup_trials=2)
    work_off(runs[:3])
    run, trial = runs[3], load_trial(runs[3].config)
    with pytest.raises(InjectedError):
        settle_parameters(trial, run, Group(), Faults([Fault(place, "raise")]))
    fixed = read_json(run.search)
    assert (fixed is None) == (place in ("search.ask", "search.drawn"))
    drawn, _ = settle_parameters(load_trial(run.config), run, Group())
    assert fixed is None or fixed["parameters"] == told(run)
    assert drawn == load_trial(run.config) and drawn.search.drawn
    assert drawn.optimizer.lr == told(run)["optimizer.lr"]
    assert settle_parameters(drawn, run, Group())[0] == drawn
    tell(search_of(run), run.path.parent)
    assert [trial.user_attrs["number"] for trial in read_journal(runs)] == list(range(4))


def test_submitting_again_keeps_what_was_drawn(tmp_path):
    runs = make_runs(tmp_path, 3)
    path, folder = tmp_path / "tiny.yaml", runs[0].path.parent
    with pytest.raises(InjectedError):
        settle_parameters(load_trial(runs[0].config), runs[0], Group(), Faults([Fault("search.config", "raise")]))
    settle_parameters(load_trial(runs[1].config), runs[1], Group())
    pairs = as_drawn(trials(load_experiment(path, ["sweep.search.trials=4"])), folder)
    for run, (variant, trial) in zip(runs, pairs, strict=False):
        check_same(run, trial)
        prepare(run, trial, variant.overrides, ({}, ""))
    for run in runs[:2]:
        assert load_trial(run.config).optimizer.lr == told(run)["optimizer.lr"]
    assert [trial.search.drawn for _, trial in pairs] == [True, True, False, False]


def test_what_was_drawn_and_is_not_allowed_fails_its_trial_alone(tmp_path):
    sizes = {"train.batch_size": {"int": [24, 48]}}
    run, other = make_runs(tmp_path, 2, parameters=sizes, pruner=None, sampler="random")
    trial = load_trial(run.config)
    trial = trial.model_copy(update={"resources": trial.resources.model_copy(update={"ranks": 24})})
    write_told(run, Told(trial.search.study, 0, {"train.batch_size": 25}))
    with pytest.raises(ConfigError, match=r"train\.batch_size: 25 is not allowed; must be divisible by 24"):
        settle_parameters(trial, run, Group())
    pairs = [(variant, trial) for variant, _ in trials(load_experiment(tmp_path / "tiny.yaml"))]
    assert as_drawn(pairs, run.path.parent)[0][1] == trial
    run.search.write_text('{"study": ')
    with pytest.raises(ConfigError, match=r"search\.json: is damaged"):
        as_drawn(pairs, run.path.parent)
    ask(search_of(other), other)
    assert [member.number for member in read_study(run.path.parent, search_of(other))] == [1]


def test_the_report_and_the_results_tell_what_came_of_it(tmp_path, capsys):
    runs = make_runs(tmp_path, 12)
    work_off(runs[:10])
    for run in runs[:10]:
        settle_parameters(load_trial(run.config), run, Group())
    ask(search_of(runs[10]), runs[10])
    finish(runs[10], 99.0, pruned=True)
    (report,) = read_reports(runs)
    best = max(report.members[:10], key=lambda member: member.value)
    assert report.best == best and report.states == {"done": 10, "pruned": 1, "pending": 1}
    assert report.history()[-1][1] == best.value and set(report.importances) == set(told(runs[0]))
    root = ["--root", str(tmp_path / "runs")]
    assert cli(["search", "tiny", *root]) == 0
    assert f"by {best.trial}, number {best.number}" in capsys.readouterr().out
    assert cli(["results", "tiny", "--best", METRIC, "--json", *root]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["trial"] == best.trial and found["overrides"].items() >= best.parameters.items()
    results = {result.trial: result for result in read_results(read_statuses(runs))}
    assert results[runs[10].trial].state == "pruned" and results[runs[10].trial].metrics == {METRIC: 99.0}
    assert results[runs[11].trial].settings == {"search.number": 11}
    assert read_statuses([runs[10]])[0].note == "pruned at step 20"
    assert cli(["plot", "tiny", "--out", str(tmp_path / "search.png"), *root]) == 0
    damaged, gone = runs[3].config, runs[4].config
    damaged.write_text(damaged.read_text()[:300]), gone.unlink()
    capsys.readouterr()
    assert cli(["search", "tiny", *root]) == 0
    out = capsys.readouterr().out
    assert "9 done, 1 pending, 1 unknown, 1 pruned" in out and f"{runs[3].trial}: config.yaml is cut short" in out
    assert cli(["plot", "tiny", "--kind", "search", "--out", str(tmp_path / "search.png"), *root]) == 0
    assert cli(["search", "none", *root]) == 2
