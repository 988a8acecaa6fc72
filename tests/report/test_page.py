"""What the page of a sweep says, and that nothing it shows can break it."""

import re
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from runner.cli import run as cli
from runner.files import write_json
from runner.goodput import format_seconds, read_accounts
from runner.ledger import add_up
from runner.report import write_report
from runner.report.findings import tell_findings
from runner.report.material import read_material
from runner.results import group_seeds
from runner.rundir import find_trials
from runner.status import read_statuses
from runner.wandb_note import note_path
from tests.report.sweeps import HOSTILE, TOP1, TRACEBACK, make_damaged, make_hostile, make_sweep
from tests.results.sweeps import change, sweep
from tests.trials import SUBMITTED, make_trial

NOW = SUBMITTED + 1000


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    make_sweep(root)
    make_hostile(root)
    make_damaged(root)
    make_trial(root, "a", "fresh")
    make_trial(root, "b", "fresh")
    return root


class Reader(HTMLParser):
    """The tags and the text of a page; every element that is begun is ended."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(page)
        assert self.open == [], "each element ends"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href", "srcset")]
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data if not (self.open and self.open[-1] == "style") else ""


def page_of(folder: Path, tmp_path: Path, now: float = NOW) -> str:
    write_report(tmp_path / "page.html", [folder], now)
    return (tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def pages(root, tmp_path_factory):
    """The page of each sweep."""
    folder = tmp_path_factory.mktemp("pages")
    with pytest.MonkeyPatch.context() as patch:
        # What is not final is known to nobody, as on a machine without Slurm.
        patch.setenv("PATH", "")
        return {name: page_of(root / name, folder) for name in ("sweep", "hostile", "damaged", "fresh")}


def test_a_page_tells_everything_of_a_sweep(pages):
    page = Reader(pages["sweep"])
    assert "15 done" in page.text and "2 failed" in page.text and "1 pending" in page.text
    best = r"Best of \d settings[^:]*: gamma [\d.]+, temperature [\d.]+\. test/linear_top1 is 0\.\d+ ± 0\.0\d+"
    assert re.search(best, page.text)
    told = ("2 trials: out of memory", "return a & b < c", "preempted", "method.temperature", "runner submit x.yaml")
    assert [words for words in told if words not in page.text] == []
    assert page.tags.count("svg") == page.tags.count("figure") == page.tags.count("figcaption") == 5
    assert all(link.startswith("#") for link in page.links), "a page asks nobody for anything"
    assert {"script", "iframe", "object", "link", "form"}.isdisjoint(page.tags)


def test_a_page_tells_where_the_time_went(root, pages):
    page = Reader(pages["sweep"])
    total = add_up(account.ledger for account in read_accounts(read_statuses(find_trials(root / "sweep")), NOW))
    assert total.interruptions and f"{len(total.interruptions)} interruptions." in page.text
    held, useful = format_seconds(total.held_seconds), format_seconds(total.seconds["useful"])
    assert f"Of {held} with nodes {useful} were useful training" in page.text
    assert f"effective training time ratio of {total.ratio():.3f}" in page.text
    assert "What interruptions cost" in page.text and "When each trial did what" in page.text
    assert "useful training" not in Reader(pages["fresh"]).text


def test_names_settings_and_tracebacks_are_text(pages):
    failed, hostile = Reader(pages["sweep"]), Reader(pages["hostile"])
    for page in (failed, hostile):
        assert HOSTILE in page.text and {"script", "b", "img"}.isdisjoint(page.tags)
    assert "<b>&0p" in hostile.text and "<img src=x onerror=alert(1)>_top1" in hostile.text
    assert "0123456789abcdef" in TRACEBACK and "0123456789abcdef" not in failed.text


def test_the_same_files_give_the_same_page_but_for_the_time(root, pages, tmp_path):
    later = page_of(root / "hostile", tmp_path, NOW + 3600)
    assert later != pages["hostile"]
    assert len({re.sub(r"<time.*?</time>", "", page) for page in (later, pages["hostile"])}) == 1


def test_a_sweep_with_nothing_done_and_damaged_run_folders_have_pages_too(pages):
    fresh = Reader(pages["fresh"])
    assert "No trial has metrics yet." in fresh.text and "2 pending" in fresh.text
    damaged = Reader(pages["damaged"])
    assert "result.json: holds no JSON" in damaged.text and "failure.json: holds no JSON" in damaged.text
    assert f"{TOP1} is 0.5" in damaged.text


def test_the_page_links_to_wandb_and_to_nothing_that_a_browser_would_run(tmp_path):
    run = make_trial(tmp_path, "a", "sent", result={TOP1: 0.5})
    note_path(run).parent.mkdir()
    write_json(note_path(run), {"url": "https://wandb.ai/us/sent/runs/sent-a"})
    assert Reader(page_of(run.path.parent, tmp_path)).links[-1] == "https://wandb.ai/us/sent/groups/sent"
    write_json(note_path(run), {"url": "javascript:alert(1)//us/sent/runs/sent-a"})
    assert "javascript" not in page_of(run.path.parent, tmp_path)


def test_findings_name_the_best_with_its_spread_and_what_is_next(root):
    material = read_material([root / "sweep"], NOW)

    def tell(results) -> list[str]:
        return tell_findings(replace(material, results=results, groups=group_seeds(results)))

    results = sweep(gammas=(0.0, 0.5, 1.0))
    assert tell(results) == [
        f"Best of 3 settings: gamma 1. {TOP1} is 0.617 ± 0.021 (standard deviation, n=3); higher is better.",
        "Next: gamma 0.5, 0.567 ± 0.021 (standard deviation, n=3). The best is higher by 0.05 ± 0 over the 3 seeds "
        "that both have done; that 95 % interval leaves out 0.",
    ]
    change(results, "g1.0s0", "failed")
    beyond = tell(results)
    assert beyond[0].startswith("Best of 2 settings with all their seeds: gamma 0.5.")
    assert beyond[1].startswith(
        "Beyond it, with fewer trials done: gamma 1, 0.625 ± 0.021 (standard deviation, n=2 of 3)"
    )
    for trial in ("g0.0s1", "g0.0s2", "g0.5s2"):
        change(results, trial, "running")
    assert tell(results)[0].startswith("Best of 2 settings with the most trials done: gamma 1.")
    for trial in ("g1.0s1", "g1.0s2", "g0.0s0", "g0.0s1", "g0.0s2"):
        change(results, trial, "running")
    assert tell(results)[1] == "2 settings have no trial yet that is done."


def test_the_verb_writes_beside_the_trials_or_where_it_is_told(root, tmp_path, capsys):
    assert cli(["report", "hostile", "--root", str(root)]) == 0
    assert capsys.readouterr().out == f"{root / 'hostile' / 'report.html'}\n"
    assert (root / "hostile" / "report.html").stat().st_mode & 0o077 == 0
    assert cli(["report", "hostile", "sweep", "--root", str(root)]) == 2
    assert "--out" in capsys.readouterr().err
    out = tmp_path / "both.html"
    assert cli(["report", "hostile", "sweep", "--out", str(out), "--root", str(root)]) == 0
    assert "experiment" in Reader(out.read_text()).text
    assert cli(["report", "sweeep", "--root", str(root)]) == 2


@pytest.mark.nightly
def test_a_page_of_a_thousand_trials_takes_seconds_and_a_few_megabytes(memory_path, tmp_path):
    gammas, temperatures = tuple(i / 18 for i in range(19)), tuple(10 ** (-i / 6) for i in range(18))
    folder = make_sweep(memory_path, gammas, temperatures, points=200)
    began = time.process_time()
    page = page_of(folder, tmp_path)
    assert time.process_time() - began < 15 and len(page) < 4e6
