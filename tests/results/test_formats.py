"""Each format holds every trial, whatever its state, and reads back as what it was made from."""

import csv
import io
import math
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from runner.errors import ConfigError
from runner.results import TrialResult, group_over
from runner.results.compare import pair_up
from runner.results.layout import groups_sheet, trials_sheet
from runner.results.markup import latex, latex_text, markdown
from runner.results.records import group_records, pair_records, trial_records, write_csv, write_parquet
from runner.results.sheet import Number, Sheet
from tests.results.sweeps import TOP1, change, sweep

HOSTILE = "a_b & 50% of #1 {x} ~^\\|<> *é*"


def partial() -> list[TrialResult]:
    """A sweep with a trial that failed and one that waits."""
    results = sweep()
    change(results, "g1.0s2", "failed", {TOP1: 0.25})
    return [*results, TrialResult("wait", {"method.gamma": 1.0, "train.seed": 3}, "pending", {})]


def read_csv(path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text())))


def test_csv_of_trials(tmp_path):
    write_csv(tmp_path / "x.csv", trial_records(partial()))
    rows = read_csv(tmp_path / "x.csv")
    assert list(rows[0]) == ["trial", "state", "method.gamma", "train.seed", TOP1, "train/loss"]
    assert float(rows[4][TOP1]) == partial()[4].metrics[TOP1]
    assert [(row["trial"], row["state"], row[TOP1], row["train/loss"]) for row in rows[5:]] == [
        ("g1.0s2", "failed", "0.25", ""),
        ("wait", "pending", "", ""),
    ]
    with pytest.raises(ConfigError, match="cannot be written"):
        write_csv(tmp_path / "nowhere" / "x.csv", trial_records(partial()))


def test_csv_of_groups_and_of_pairs(tmp_path):
    write_csv(tmp_path / "x.csv", group_records(group_over(partial(), "seed")))
    rows = read_csv(tmp_path / "x.csv")
    assert [(row["trials"], row["done"], row["missing"]) for row in rows] == [
        ("3", "3", "no seed 3"),
        ("4", "2", "seed 2: g1.0s2 failed; seed 3: wait pending"),
    ]
    assert float(rows[0][f"{TOP1} std"]) == pytest.approx(np.std([0.5, 0.51, 0.54], ddof=1))
    write_csv(tmp_path / "x.csv", pair_records(pair_up(partial(), "method.gamma", [0.0, 1.0])))
    rows = read_csv(tmp_path / "x.csv")
    assert [(row["metric"], row["n"]) for row in rows] == [(TOP1, "2"), ("train/loss", "2")]
    assert float(rows[0]["mean"]) == pytest.approx(0.1) and "g1.0s2 failed" in rows[0]["unpaired"]


def test_parquet_has_typed_columns(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    mixed = [1, 2.5, "x", True, None, [1, 2], math.nan]
    settings = {
        "int": [0, 1, 2, 3, 4, 5, 6],
        "float": [0.5, 1, 2, None, 3, 4, 5],
        "bool": [True, False, None, True, True, True, True],
        "text": ["a", HOSTILE, None, "", "c", "d", "e"],
        "list": [[32, 64], [], [1], None, [2], [3], [4]],
        "mixed": mixed,
        "huge": [2**70, 1, 2, 3, 4, 5, 6],
    }
    results = [
        TrialResult(
            f"t{n}",
            {key: values[n] for key, values in settings.items()},
            "failed" if n == 3 else "done",
            {} if n == 3 else {TOP1: math.nan if n == 1 else n / 7, "steps": n},
        )
        for n in range(7)
    ]
    write_parquet(tmp_path / "x.parquet", trial_records(results))
    table = parquet.read_table(tmp_path / "x.parquet")
    types = {name: str(table.schema.field(name).type) for name in table.column_names}
    assert types == {
        **dict.fromkeys(("trial", "state", "text", "list", "mixed", "huge"), "string"),
        **dict.fromkeys(("int", "steps"), "int64"),
        **dict.fromkeys(("float", TOP1), "double"),
        "bool": "bool",
    }
    rows = table.to_pylist()
    assert [row["state"] for row in rows] == ["done"] * 3 + ["failed"] + ["done"] * 3
    assert [row["int"] for row in rows] == settings["int"] and [row["bool"] for row in rows] == settings["bool"]
    assert [row["text"] for row in rows] == settings["text"]
    assert [row["mixed"] for row in rows] == ["1", "2.5", "x", "true", None, "[1, 2]", "nan"]
    assert math.isnan(rows[1][TOP1]) and rows[3][TOP1] is None and rows[6][TOP1] == 6 / 7
    write_parquet(tmp_path / "none.parquet", trial_records([]))
    assert parquet.read_table(tmp_path / "none.parquet").num_rows == 0


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"--parquet .*x: needs pyarrow: pip install -e '.\[results\]'"):
        write_parquet(tmp_path / "x", trial_records(sweep()))


def test_markdown_is_a_table_that_no_value_can_break():
    groups = group_over(partial(), "seed")
    lines = markdown(groups_sheet(groups, ["method.gamma"], [TOP1])).splitlines()
    assert lines[0] == "mean ± standard deviation over seed"
    head, rule, *rows = lines[2:]
    assert head == r"| gamma | n | test/linear\_top1 | not counted |" and rule == "| --- | --- | ---: | --- |"
    assert rows[0] == "| 0 | 3/4 | 0.517 ± 0.021 | no seed 3 |", "bold only for what is as full as any"
    sheet = Sheet(["key"], [[HOSTILE], ["a\nb"], [Number(0.5, is_best=True)]], ["a note"])
    table = markdown(sheet).splitlines()
    cells = [line for line in table if line.startswith("|")]
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 2 for line in cells) and len(cells) == 5
    assert cells[-1] == "| **0.5** |" and table[-1] == "a note"


def test_latex_is_a_table_for_booktabs():
    sheet = trials_sheet(partial(), ["method.gamma"], [TOP1])
    text = latex(Sheet([*sheet.heads, HOSTILE], [[*row, "x\ny"] for row in sheet.rows], ["a note"], "title"))
    comments, body = [line for line in text.splitlines() if line[0] == "%"], text[text.index("\\begin") :]
    assert comments == ["% needs \\usepackage{booktabs}", "% title", "% a note"]
    lines = body.splitlines()
    assert lines[0] == r"\begin{tabular}{lllrl}" and lines[-1] == r"\end{tabular}"
    assert [lines[1], lines[3], lines[-2]] == [r"  \toprule", r"  \midrule", r"  \bottomrule"]
    rows = [lines[2], *lines[4:-2]]
    assert len(rows) == 8 and all(len(re.findall(r"(?<!\\)&", row)) == 4 and row.endswith(r" \\") for row in rows)
    assert [row for row in rows if "mathbf" in row] == [r"  g1.0s1 & 1 & done & $\mathbf{0.61}$ & x y \\"]
    assert any("g1.0s2 & 1 & failed & $0.25$" in row for row in rows) and "wait & 1 & pending &  &" in body


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (Number(0.8375, 0.0028), r"$0.8375 \pm 0.0028$"),
        (Number(0.8375, 0.0028, is_best=True), r"$\mathbf{0.8375} \pm 0.0028$"),
        (Number(0.5, 0.1, "n=2"), r"$0.50 \pm 0.10\ (\mathrm{n=2})$"),
        (Number(-3.25e-7), r"$-3.25 \times 10^{-7}$"),
        (Number(math.nan, math.nan), r"$\mathrm{nan} \pm \mathrm{nan}$"),
    ],
)
def test_latex_numbers_are_math(number, words):
    assert words in latex(Sheet(["x"], [[number]]))


def test_the_end_of_a_latex_row_takes_nothing_from_the_next():
    rows = [[name, Number(0.5)] for name in ("[16, 32]", "*", "a[0]")]
    lines = latex(Sheet(["widths", TOP1], rows)).splitlines()
    assert [line.split(" & ")[0] for line in lines if "0.5" in line] == ["  {[}16, 32]", "  {*}", "  a[0]"]


def test_latex_prints_hostile_text_as_it_is():
    assert latex_text(HOSTILE) == (
        r"a\_b \& 50\% of \#1 \{x\} \textasciitilde{}\textasciicircum{}\textbackslash{}\textbar{}"
        r"\textless{}\textgreater{} *é*"
    )


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here")
def test_latex_compiles(tmp_path):
    numbers = [Number(0.5, 0.1, "n=2", True), Number(3.2e-7, 1e-8), Number(math.nan), Number(-math.inf, math.inf)]
    names = ["x", "[16, 32]", "*", "[", HOSTILE]
    table = latex(Sheet([HOSTILE, TOP1], [[name, number] for name in names for number in numbers], [HOSTILE], HOSTILE))
    document = f"\\documentclass{{article}}\\usepackage{{booktabs}}\\begin{{document}}\n{table}\\end{{document}}\n"
    (tmp_path / "x.tex").write_text(document)
    subprocess.run(["pdflatex", "-interaction=batchmode", "-halt-on-error", "x.tex"], cwd=tmp_path, check=True)
