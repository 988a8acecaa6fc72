"""What a search has come to: the best so far, what matters, and every trial in its order."""

import re
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from runner.differences import split_groups
from runner.errors import ConfigError
from runner.rundir import RunDir
from runner.search import journal_of, read_search, read_told, tell
from runner.search_config import SearchConfig
from runner.status import Row, read_statuses
from runner.strict_yaml import flow
from runner.study import Member, best, importances
from runner.sweep_config import SEARCH
from runner.tables import format_value, new_table, short_names

_STUDY = re.compile(r"^  study: [\'\"]?(\w+)", re.MULTILINE)


@dataclass(frozen=True)
class Report:
    """One search of a sweep."""

    search: SearchConfig
    """Of its first trial."""

    rows: list[Row]
    """All its trials, those too that nobody has told anything yet."""

    members: list[Member]
    best: Member | None
    importances: dict[str, float]
    journal: str
    flaws: list[str]
    """A line for each trial of which something cannot be read."""

    def title(self) -> str:
        """The study, and what the rest of the sweep set in its trials."""
        drawn = {*self.search.parameters, "search.number"}
        fixed = {key: value for key, value in self.rows[0].record.overrides.items() if key not in drawn}
        return " ".join([self.search.study, *(f"{key}={flow(value)}" for key, value in fixed.items())])

    @property
    def states(self) -> dict[str, int]:
        """How many trials are in each state, where pruned is one."""
        pruned = {member.trial for member in self.members if member.state == "pruned"}
        return dict(Counter("pruned" if row.trial in pruned else row.state for row in self.rows))

    def history(self) -> list[tuple[Member, float | None]]:
        """Each trial that was told its parameters, with the best value up to its number."""
        found: list[tuple[Member, float | None]] = []
        top: Member | None = None
        for member in self.members:
            top = best(self.search, [member] if top is None else [top, member])
            found.append((member, None if top is None else top.value))
        return found

    def as_json(self) -> dict[str, Any]:
        return {
            "study": self.search.study,
            **{key: getattr(self.search, key) for key in ("metric", "direction", "sampler")},
            "states": self.states,
            "best": None if self.best is None else _as_json(self.best),
            "importances": self.importances,
            "trials": [{**_as_json(member), "best": value} for member, value in self.history()],
            "journal": self.journal,
            "flaws": self.flaws,
        }


def _as_json(member: Member) -> dict[str, Any]:
    return {key: getattr(member, key) for key in ("trial", "number", "state", "value", "parameters")}


def read_reports(runs: list[RunDir]) -> list[Report]:
    """One report for each search of a sweep; its journal is brought up to date where that can be written.

    Raises: ConfigError for a sweep without a search, and without Optuna.
    """
    studies: dict[str, list[RunDir]] = {}
    for run in runs:
        if study := _find_study(run):
            studies.setdefault(study, []).append(run)
    if not studies:
        raise ConfigError(f"{runs[0].experiment}: has no `sweep: search:`; `runner results` shows other sweeps")
    rows = {row.run: row for row in read_statuses([run for members in studies.values() for run in members])}
    return [_report([rows[run] for run in members]) for members in studies.values()]


def _find_study(run: RunDir) -> str | None:
    """By its config, or by what it was told where that is damaged: no trial is dropped for it."""
    if found := _STUDY.search(split_groups(run).get(SEARCH, "")):
        return found[1]
    with suppress(ConfigError):
        told = read_told(run)
        return None if told is None else told.study
    return None


def _read_search(row: Row) -> SearchConfig | None:
    with suppress(ConfigError, OSError):
        return read_search(row.run)
    return None


def _report(rows: list[Row]) -> Report:
    search = next(filter(None, map(_read_search, rows)), None)
    if search is None:
        raise ConfigError(f"{rows[0].run.config}: {rows[0].record.flaw}, as are those of all trials of its search")
    folder = rows[0].run.path.parent
    members = tell(search, folder)
    journal = str(journal_of(folder, search.study))
    flaws = [f"{row.trial}: {row.record.flaw}" for row in rows if row.record.flaw]
    return Report(search, rows, members, best(search, members), importances(search, members), journal, flaws)


def print_reports(reports: Iterable[Report], console: Console) -> None:
    """The same for people."""
    for report in reports:
        search = report.search
        counts = ", ".join(f"{count} {state}" for state, count in report.states.items())
        print(f"{report.title()}: {search.direction} {search.metric} by {search.sampler}: {counts}")
        if report.best is not None:
            told = " ".join(f"{key}={flow(value)}" for key, value in report.best.parameters.items())
            print(f"best {format_value(report.best.value)} by {report.best.trial}, number {report.best.number}: {told}")
        if report.importances:
            print("importance " + ", ".join(f"{key} {share:.2f}" for key, share in report.importances.items()))
        console.print(_history_table(report))
        for line in report.flaws:
            print(line)
        print(f"for optuna-dashboard: {report.journal}")


def _history_table(report: Report) -> Table:
    keys = list(report.search.parameters)
    table = new_table(["number", "trial", *short_names(keys), "state", report.search.metric, "best"])
    for member, value in report.history():
        settings = [format_value(member.parameters[key]) for key in keys]
        measured = ["" if each is None else format_value(each) for each in (member.value, value)]
        table.add_row(str(member.number), member.trial, *settings, member.state, *measured)
    return table
