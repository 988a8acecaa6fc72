"""`runner results` and `runner plot`, as typed: every format of one sweep, and what is refused."""

import csv
import json
import shutil

import pytest

from runner.cli import run
from tests.trials import make_trial

TOP1 = "test/linear_top1"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """gamma in 0, 1 by lr in 0.001, 0.01 by three seeds: one failed, one waits, one is not there; and `other`."""
    root = tmp_path_factory.mktemp("runs")
    for gamma in (0.0, 1.0):
        for lr in (0.001, 0.01):
            for seed in (0, 1, 2):
                overrides = {"method.gamma": gamma, "optimizer.lr": lr, "train.seed": seed}
                value = {TOP1: 0.5 + gamma / 10 + lr + seed / 100, "train/loss": 1.0 + gamma}
                end = {"result": value}
                if (gamma, lr, seed) == (1.0, 0.01, 0):
                    end = {"failure": {"cause": "user code", "error": "no"}, "metrics": [{"step": 1, **value}]}
                if (gamma, lr, seed) == (1.0, 0.01, 1):
                    end = {}
                if (gamma, lr, seed) != (0.0, 0.01, 2):
                    make_trial(root, f"{int(gamma)}{int(lr * 1000):02}{seed}", "grid", overrides=overrides, **end)
    make_trial(root, "0010", "other", overrides={"method.gamma": 0.0, "train.seed": 7}, result={TOP1: 0.25})
    return root


@pytest.fixture
def runner(root, capfd):
    """Run a command line on that root: (exit code, stdout, stderr)."""

    def call(*arguments):
        code = run([*map(str, arguments), "--root", str(root)])
        return code, *capfd.readouterr()

    return call


def documents(runner, *arguments):
    code, out, err = runner("results", *arguments, "--json")
    assert code == 0 and err == ""
    return json.loads(out)


def test_json_of_trials_is_the_contract_and_leaves_none_out(runner):
    rows = documents(runner, "grid")
    assert len(rows) == 11 and {frozenset(row) for row in rows} == {
        frozenset({"trial", "overrides", "settings", "state", "metrics"})
    }
    states = {row["trial"]: row["state"] for row in rows if row["state"] != "done"}
    assert states == {"1100": "failed", "1101": "pending"}
    assert [row["trial"] for row in documents(runner, "grid", "--where", "state!=done")] == ["1100", "1101"]


def test_json_of_groups_of_a_pivot_and_of_pairs(runner):
    groups = documents(runner, "grid", "--over", "seed")
    assert [(group["n"], group["expected"], len(group["missing"]), group["absent"]) for group in groups] == [
        (3, 3, 0, []),
        (2, 3, 0, [2]),
        (3, 3, 0, []),
        (1, 3, 2, []),
    ]
    assert groups[3]["metrics"][TOP1]["ci95"] is None and len(groups[0]["metrics"][TOP1]["ci95"]) == 2
    cells = documents(runner, "grid", "--rows", "lr", "--cols", "seed")
    assert len(cells) == 6 and cells[0]["settings"] == {"optimizer.lr": 0.001, "train.seed": 0}
    (pairs,) = documents(runner, "grid", "--compare", "gamma=0,1")
    assert pairs["key"] == "method.gamma" and len(pairs["pairs"]) == 3 and len(pairs["unpaired"]) == 3
    assert pairs["metrics"][TOP1]["mean"] == pytest.approx(0.1)
    by_rate = documents(runner, "grid", "--compare", "gamma=0,1", "--over", "seed")
    assert [(each["settings"], len(each["pairs"])) for each in by_rate] == [
        ({"optimizer.lr": 0.001}, 3),
        ({"optimizer.lr": 0.01}, 0),
    ]


def test_the_best_trial_and_the_best_group(runner):
    (best,) = documents(runner, "grid", "--best", TOP1)
    assert best["trial"] == "1102"
    (best,) = documents(runner, "grid", "--best", "train/loss:max", "--over", "seed")
    assert best["settings"] == {"method.gamma": 1.0, "optimizer.lr": 0.001}
    out = runner("results", "grid", "--best", "linear_top1", "--over", "seed")[1]
    assert "0.001" in out and "best of 2 groups by test/linear_top1, higher is better" in out
    assert "not considered: 2 with fewer trials done" in out
    out = runner("results", "grid", "--best", TOP1, "--where", "state!=done")[1]
    assert "it is not all done itself" in out and "failed" in out


def test_tables_say_what_they_show(runner):
    code, out, _ = runner("results", "grid", "--over", "seed", "--spread", "ci", "--metric", "linear*")
    assert code == 0 and "95 % confidence interval (Student's t) over seed" in out and "train/loss" not in out
    assert "seed 0: 1100 failed, seed 1: 1101" in out and "no seed 2" in out and "9 done, 1 failed" in out
    out = runner("results", "grid", "--where", "gamma=0", "--where", "lr>0.005")[1]
    assert "2 done: 2 of 11 trials, those with gamma=0, lr>0.005" in out
    out = runner("results", "grid", "--rows", "gamma", "--cols", "lr")[1]
    assert "test/linear_top1: mean ± standard deviation over seed" in out and "(n=1)" in out and "1100 failed" in out
    assert "no trials: 0 of 11 trials" in runner("results", "grid", "--where", "gamma=7", "--over", "seed")[1]


def test_markdown_and_latex_need_no_file(runner, tmp_path):
    assert runner("results", "--markdown", "grid", "--over", "seed")[1].startswith("mean ± standard deviation over s")
    assert runner("results", "grid", "--latex")[1].startswith("% needs")
    assert runner("results", "grid", "--markdown", "-")[1].startswith("| trial |")
    files = [tmp_path / "x.md", tmp_path / "x.tex"]
    assert runner(
        "results", "grid", "--markdown", files[0], "--latex", files[1], "--rows", "gamma", "--cols", "lr"
    ) == (
        0,
        "",
        "",
    )
    assert files[0].read_text().count("\n| ") >= 3 and "\\bottomrule" in files[1].read_text()


def test_a_table_beside_json_needs_a_file(runner, tmp_path):
    code, out, _ = runner("results", "grid", "--json", "--latex", tmp_path / "x.tex")
    assert code == 0 and len(json.loads(out)) == 11 and "\\bottomrule" in (tmp_path / "x.tex").read_text()
    code, out, err = runner("results", "grid", "--json", "--latex")
    assert (code, out) == (2, "") and "--json and a table both go to stdout" in err


def test_a_sweep_and_its_copy_are_two(runner, tmp_path):
    """Else a mean over seeds would count each trial twice, and look surer than it is."""
    for seed in (1, 2):
        make_trial(tmp_path / "here", f"t{seed}", "twin", overrides={"train.seed": seed}, result={TOP1: seed / 4})
    shutil.copytree(tmp_path / "here" / "twin", tmp_path / "there" / "twin")
    groups = documents(runner, tmp_path / "here" / "twin", tmp_path / "there" / "twin", "--over", "seed")
    assert [(group["n"], group["settings"]["experiment"]) for group in groups] == [(2, "here/twin"), (2, "there/twin")]
    for condition, count in (("experiment=twin", 4), ("experiment!=twin", 0), ("experiment=here/twin", 2)):
        rows = documents(runner, tmp_path / "here" / "twin", tmp_path / "there" / "twin", "--where", condition)
        assert len(rows) == count


def test_a_link_stays_one_and_a_file_keeps_its_permissions(runner, tmp_path):
    (tmp_path / "real.csv").touch(mode=0o644)
    (tmp_path / "real.csv").chmod(0o644)
    (tmp_path / "link.csv").symlink_to(tmp_path / "real.csv")
    assert runner("results", "grid", "--csv", tmp_path / "link.csv")[0] == 0
    assert (tmp_path / "link.csv").is_symlink() and "gamma" in (tmp_path / "real.csv").read_text()
    assert (tmp_path / "real.csv").stat().st_mode & 0o777 == 0o644


def test_files_for_other_programs_hold_every_trial(runner, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    assert runner("results", "grid", "--csv", tmp_path / "x.csv", "--parquet", tmp_path / "x.parquet")[0] == 0
    with (tmp_path / "x.csv").open() as file:
        rows = list(csv.DictReader(file))
    table = parquet.read_table(tmp_path / "x.parquet").to_pylist()
    assert [row["trial"] for row in rows] == [row["trial"] for row in table] and len(rows) == 11
    assert [float(row["method.gamma"]) for row in rows] == [row["method.gamma"] for row in table]
    assert {row["trial"]: row[TOP1] for row in table}["1101"] is None


def test_several_sweeps_in_one_table(runner):
    rows = documents(runner, "grid", "other", "grid")
    assert len(rows) == 12 and rows[-1]["settings"]["experiment"] == "other"
    assert "experiment" in runner("results", "grid", "other")[1].splitlines()[0]
    (pairs,) = documents(runner, "grid", "other", "--compare", "experiment=grid,other")
    assert pairs["pairs"] == [] and "no experiment other" in pairs["unpaired"][1]


def test_plots_of_each_kind(runner, tmp_path):
    for number, options in enumerate((["--kind", "parameter", "--x", "gamma"], ["--over", "seed"], ["--spread", "ci"])):
        code, out, err = runner("plot", "grid", *options, "--out", tmp_path / f"{number}.png")
        assert (code, out, err) == (0, f"{tmp_path}/{number}.png\n", "")
        assert (tmp_path / f"{number}.png").stat().st_size > 5000
    assert runner("results", "grid", "--plot", tmp_path / "x.svg")[0] == 0 and (tmp_path / "x.svg").exists()


def test_what_there_is_no_room_for_is_counted(runner, root):
    many = {f"test/retrieval_{way}_recall_at_{at}": float(way + at) for way in range(6) for at in range(6)}
    make_trial(root, "aaaa", "many", overrides={"train.seed": 0}, result={**many, "train/loss": 1.0})
    for options in ([], ["--over", "seed"]):
        *_, last = runner("results", "many", *options)[1].splitlines()
        shown = runner("results", "many", *options, "--markdown")[1].count("recall\\_at")
        assert last == f"{37 - shown} more metrics: --metric NAME or --metric all; --csv FILE has them too"
    assert "more metrics" not in runner("results", "many", "--metric", "all")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rows", "gamma"], "--rows and --cols go together"),
        (["--rows", "gamma", "--cols", "gamma"], "should be two keys"),
        (["--rows", "gamma", "--cols", "lr", "--over", "seed"], "--over and --rows do not go together"),
        (["--best", TOP1, "--compare", "gamma=0,1"], "--best and --compare do not go together"),
        (["--rows", "gama", "--cols", "lr"], '--rows gama: no trial of the sweep sets it; did you mean "gamma"?'),
        (
            ["--rows", "gamma", "--cols", "lr", "--metric", "*"],
            "a pivot hold one metric, not test/linear_top1, train/loss",
        ),
        (
            ["--metric", "lineer_top1"],
            '--metric lineer_top1: no trial has such a metric; did you mean "test/linear_top1"',
        ),
        (["--where", "gama=1"], '--where gama: no trial of the sweep sets it; did you mean "gamma"?'),
        (["--compare", "gamma=0,3"], "--compare method.gamma: no trial has 3; there is 0.0, 1.0"),
        (["--spread", "iqr"], "'iqr' is not one of 'std', 'ci', 'sem'"),
        (["--csv", "/nowhere/x.csv"], "--csv /nowhere/x.csv: there is no folder /nowhere; make it"),
    ],
)
def test_what_cannot_be_answered_is_one_line_and_exit_code_2(runner, arguments, message):
    code, out, err = runner("results", "grid", *arguments)
    assert code == 2 and out == "" and err.count("\n") == 1
    assert err.startswith("runner: ") and message in err
