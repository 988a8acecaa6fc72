"""A node that failed two trials is left out for a day, on its own cluster."""

import multiprocessing
from pathlib import Path

import pytest
from rich.console import Console

from runner import doctor, nodes
from runner.files import read_rows
from runner.nodes import Excluded, find_excluded, merge, read_excluded, record_fault
from runner.rundir import RunDir
from runner.show import print_trial, show_trial
from tests.trials import make_trial

HOUR = 3600
DAY = 24 * HOUR


def fault(node: str, trial: str, at: float, cause: str = "node failure") -> dict:
    return {"node": node, "trial": trial, "time": at, "cause": cause, "reason": "x"}


@pytest.mark.parametrize(
    ("faults", "now", "left_out"),
    [
        ([], 0, {}),
        ([fault("n1", "a", 0)], 1, {}),
        ([fault("n1", "a", 0), fault("n1", "a", 1)], 2, {}),
        ([fault("n1", "a", 0), fault("n2", "b", 1)], 2, {}),
        ([fault("n1", "a", 0), fault("n1", "b", HOUR)], 2 * HOUR, {"n1": HOUR + DAY}),
        # For a day, from the fault that made it so or from the last since.
        ([fault("n1", "a", 0), fault("n1", "b", HOUR)], HOUR + DAY, {}),
        (
            [fault("n1", "a", 0), fault("n1", "b", HOUR), fault("n1", "b", 20 * HOUR)],
            30 * HOUR,
            {"n1": 20 * HOUR + DAY},
        ),
        # More than a day apart they do not add up, whatever order they were written in.
        ([fault("n1", "a", 0), fault("n1", "b", DAY)], DAY + 1, {}),
        ([fault("n1", "b", HOUR), fault("n1", "a", 0)], 2 * HOUR, {"n1": HOUR + DAY}),
    ],
)
def test_two_trials_within_a_day(faults, now, left_out):
    assert {each.node: each.until for each in find_excluded(faults, now)} == left_out


def test_why_is_said():
    (found,) = find_excluded([fault("n1", "x/a", 0), fault("n1", "x/b", 1, "launch failed")], 2)
    assert found == Excluded("n1", 1 + DAY, "node failure of x/a, launch failed of x/b")


@pytest.mark.parametrize(
    ("lists", "joined"),
    [
        ((None, ""), ""),
        (("(null)", "n1"), "n1"),
        (("n1,n2", "n2,n3"), "n1,n2,n3"),
        (("a[1,3-5],b7", "c[1-2]-eth[0,1]"), "a[1,3-5],b7,c[1-2]-eth[0,1]"),
    ],
)
def test_lists_of_nodes_are_joined(lists, joined):
    assert merge(*lists) == joined


def _write(folder: str, count: int) -> None:
    for number in range(count):
        record_fault(RunDir(Path(folder)), "lab", f"n{number}", "node failure", "x" * 200)


def test_many_jobs_write_at_once(tmp_path):
    folders = [str(tmp_path / "exp" / name) for name in "ab"]
    writers = [multiprocessing.get_context("spawn").Process(target=_write, args=(folder, 100)) for folder in folders]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    rows = read_rows(tmp_path / nodes.FOLDER / "lab.jsonl")
    assert len(rows) == 200 and {row["trial"] for row in rows} == {f"exp/{name}" for name in "ab"}
    assert len(read_excluded(tmp_path, "lab")) == 100


def test_names_that_no_cluster_has_are_passed_over(tmp_path):
    run = make_trial(tmp_path, "a")
    for cluster, node in [("../x", "n1"), ("lab", "n1,n2"), ("lab", "n1\n#SBATCH"), ("", "n1")]:
        record_fault(run, cluster, node, "node failure", "x")
    assert not (tmp_path / nodes.FOLDER).exists()


@pytest.fixture
def broken(tmp_path):
    """A trial whose root knows a broken node on one of two clusters."""
    runs = [make_trial(tmp_path, name) for name in "ab"]
    for run in runs:
        record_fault(run, "lab", "n7", "launch failed", "x")
        record_fault(run, "other", f"n-{run.trial}", "node failure", "x")
    return runs[0]


def test_show_and_doctor_tell(broken, tmp_path, capsys):
    document = show_trial(broken)
    (told,) = document["excluded_nodes"]
    assert (told["cluster"], told["node"]) == ("lab", "n7")
    print_trial(document, Console(width=200))
    assert "n7 of lab until" in capsys.readouterr().out
    (check,) = doctor.check_nodes(tmp_path, "lab")
    assert check.verdict == "warn" and "launch failed of exp/a, launch failed of exp/b" in check.text
    assert not list(doctor.check_nodes(tmp_path, "other")) and not list(doctor.check_nodes(tmp_path / "none", "lab"))
