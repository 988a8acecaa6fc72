"""The page: its head, its sections in order, and the file it is written to."""

import time
from collections import Counter
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from runner.errors import ConfigError
from runner.explain import counted
from runner.files import masked
from runner.report.course import tell_attempts, tell_failures
from runner.report.findings import tell_findings
from runner.report.goodput import tell_goodput
from runner.report.html import Html, element, join, paragraph
from runner.report.material import Material, read_material
from runner.report.origin import tell_commands, tell_origin, tell_settings
from runner.report.results import draw_results, tell_results
from runner.results.records import write_file
from runner.status import STATES, count_states

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""What a browser may load or run of the page: nothing, whatever a trial's name or traceback holds."""

_NOTHING = Html()


def write_report(path: Path, folders: Sequence[Path], now: float, pictures: bool = False) -> None:
    """Write the page of the sweeps in these folders; `now` in unix seconds.

    With `pictures` it shows what the best trial has learned. Raises: ConfigError when there is no such trial, and when
    the file cannot be written.
    """
    material = read_material(folders, now)
    with masked(material.runs[0].umask()):
        write_file(path, make_page(material, _draw_best(material) if pictures else Html()).encode("utf-8", "replace"))


def make_page(material: Material, learned: Html = _NOTHING) -> str:
    """The whole page; the same for the same files but for the time."""
    sections = {
        "Results": Html(tell_results(material) + draw_results(material)),
        "What the best trial has learned": learned,
        "Settings": tell_settings(material),
        "Failures": tell_failures(material),
        "Where the time went": Html(tell_attempts(material) + tell_goodput(material)),
        "Code and environment": tell_origin(material),
        "Run it again": tell_commands(material),
    }
    there = {title: content for title, content in sections.items() if content}
    links = [element("a", title, href=f"#{_anchor(title)}") for title in there]
    body = [
        element("header", _head(material), element("nav", links, aria_label="sections")),
        element(
            "main",
            [element("section", element("h2", title, id=_anchor(title)), content) for title, content in there.items()],
        ),
    ]
    head = [
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name_="generator", content="runner report"),
        element("title", material.name),
        Html(f"<style>{style_sheet()}</style>"),
    ]
    page = element("html", element("head", head), element("body", body), lang="en")
    return f"<!doctype html>\n{page}\n"


def _draw_best(material: Material) -> Html:
    run = material.best_run()
    if run is None:
        raise ConfigError("--pictures: no trial is done that could show what it has learned")
    # Nothing else of a page needs torch.
    from runner.report.learned import tell_learned

    return tell_learned(run)


def style_sheet() -> str:
    return resources.files("runner.report").joinpath("page.css").read_text(encoding="utf-8")


def _head(material: Material) -> Html:
    counts = Counter(row.state for row in material.rows)
    words = count_states(material.rows)
    bar = [element("span", class_=state, style=f"flex:{counts[state]}") for state in STATES if counts[state]]
    states = [
        element("li", element("i", class_=state, aria_hidden="true"), f"{counts[state]} {state}")
        for state in STATES
        if counts[state]
    ]
    return join(
        [
            element("h1", material.name),
            paragraph(_when(material), class_="when"),
            element("div", bar, class_="bar", role="img", aria_label=words),
            element("ul", states, class_="states"),
            element("div", [paragraph(each) for each in tell_findings(material)], class_="finding"),
        ]
    )


def _when(material: Material) -> Html:
    submitted = [row.record.job["time"] for row in material.rows if row.record.job]
    submitted += [origin["time"] for origin in material.origins if isinstance(origin.get("time"), int | float)]
    changed = [row.record.updated for row in material.rows if row.record.updated is not None]
    told: list[Html | str] = [counted(len(material.rows), "trial")]
    if submitted:
        told += [", submitted ", _time(min(submitted))]
    if changed:
        told += [", last change ", _time(max(changed))]
    return join([*told, "; page written ", _time(material.now)])


def _time(at: float) -> Html:
    there = time.localtime(at)
    return element("time", time.strftime("%Y-%m-%d %H:%M", there), datetime=time.strftime("%Y-%m-%dT%H:%M:%S%z", there))


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")
