"""What was asked of the results, and the answer in every format."""

from dataclasses import dataclass, field, replace
from typing import Any

from runner.errors import ConfigError
from runner.explain import counted
from runner.results.best import best_group, best_trial, parse_goal
from runner.results.compare import Pairs, pair_up, parse_comparison
from runner.results.groups import Setting, group_by, group_over
from runner.results.layout import comparable, groups_sheet, pairs_sheet, pivot_sheet, trials_sheet
from runner.results.names import find_metrics
from runner.results.records import Records, group_records, pair_records, trial_records
from runner.results.sheet import Sheet, SpreadKind, rank_metrics
from runner.results.terminal import fit
from runner.results.trials import Selection, TrialResult, metric_names, tell_flaws
from runner.status import count_words
from runner.tables import varying_keys

NARROWEST_COLUMN = 8
"""Of a metric, with the gap beside it."""

MOST_COMPARED = 5
"""Metrics that are compared unless others are named: each more is one more chance of a difference by chance."""


@dataclass(frozen=True)
class Query:
    """Options of `runner results` that say which table it is."""

    over: str | None = None
    best: str | None = None
    metrics: list[str] = field(default_factory=list)
    rows: str | None = None
    cols: str | None = None
    compare: str | None = None
    spread: SpreadKind = "std"

    def check(self) -> None:
        """Raises: ConfigError for options that do not go together."""
        if (self.rows is None) != (self.cols is None):
            raise ConfigError("--rows and --cols go together: a pivot needs both")
        given = {"--over": self.over, "--best": self.best, "--compare": self.compare, "--rows": self.rows}
        names = [name for name, value in given.items() if value is not None]
        if ("--rows" in names and len(names) > 1) or {"--best", "--compare"} <= set(names):
            raise ConfigError(f"{' and '.join(names)} do not go together")
        if self.rows is not None and self.rows == self.cols:
            raise ConfigError(f"--rows {self.rows} --cols {self.cols}: should be two keys")

    def named(self) -> dict[str, str]:
        """The option that gives each name of a key."""
        given = {"--over": self.over, "--rows": self.rows, "--cols": self.cols}
        compared = parse_comparison(self.compare)[0] if self.compare else None
        return {name: option for option, name in {**given, "--compare": compared}.items() if name is not None}


@dataclass(frozen=True)
class View:
    """The trials of a table, and how they are put together: each by itself, in groups, in a pivot or in pairs."""

    query: Query
    results: list[TrialResult]
    keys: dict[str, str]
    notes: list[str]
    columns: list[str]
    """Settings in which trials or groups differ."""

    asked: list[str]
    """Metrics that were named."""

    groups: list[Setting] | None = None
    pairs: list[Pairs] | None = None

    def document(self) -> list[dict[str, Any]]:
        """What `--json` prints."""
        return [each.as_json() for each in self.pairs or self.groups or self.results]

    def records(self) -> Records:
        """What `--csv` and `--parquet` write."""
        if self.pairs is not None:
            return pair_records(self.pairs)
        return trial_records(self.results) if self.groups is None else group_records(self.groups)

    def sheet(self, width: int) -> Sheet:
        """The table for people, with the metrics that were asked for, else those that `width` columns hold."""
        names, ranked = metric_names(self.results), rank_metrics(self.results)
        if self.query.rows and self.groups is not None:
            return self._with_notes(self._pivot(names))
        if self.pairs is not None:
            settings = [trial.settings for pairs in self.pairs for pair in pairs.pairs for trial in pair]
            shown = self.asked or (comparable(ranked, settings) or ranked)[:MOST_COMPARED]
            return self._with_notes(pairs_sheet(self.pairs, shown), len(names) - len(shown))
        shown = self.asked or [name for name in names if name in set(ranked[: 1 + width // NARROWEST_COLUMN])]
        if self.groups is not None:
            sheet = groups_sheet(self.groups, self.columns, shown, self.query.spread)
        else:
            sheet = trials_sheet(self.results, self.columns, shown)
        sheet = sheet if self.asked else fit(sheet, ranked, width)
        return self._with_notes(sheet, len(names) - len(sheet.metrics))

    def _with_notes(self, sheet: Sheet, left_out: int = 0) -> Sheet:
        more = f"{counted(left_out, 'more metric')}: --metric NAME or --metric all; --csv FILE has them too"
        notes = [*self.notes, *sheet.notes, *([more] if left_out and not self.asked else [])]
        return replace(sheet, notes=notes)

    def _pivot(self, names: list[str]) -> Sheet:
        if not names:
            raise ConfigError("--rows: no trial has metrics yet")
        if len(self.asked) > 1:
            raise ConfigError(f"--metric: the cells of a pivot hold one metric, not {', '.join(self.asked)}")
        metric = (self.asked or names)[0]
        assert self.groups is not None and self.query.rows and self.query.cols
        keys = self.keys[self.query.rows], self.keys[self.query.cols]
        return pivot_sheet(self.groups, keys, metric, self.query.spread)


def make_view(selection: Selection, query: Query, where: list[str]) -> View:
    """Raises: ConfigError for what cannot be answered, in one line."""
    results, keys = selection.results, selection.keys
    counts = count_words([result.state for result in results])
    if where:
        counts += f": {len(results)} of {counted(selection.count, 'trial')}, those with {', '.join(where)}"
    groups = pairs = None
    notes = [counts, *tell_flaws(results)]
    if results and query.over and not query.compare:
        groups = group_over(results, keys[query.over])
    if results and query.rows and query.cols:
        groups = group_by(results, [keys[query.rows], keys[query.cols]])
    if results and query.compare:
        name, values = parse_comparison(query.compare)
        pairs = pair_up(results, keys[name], values, keys[query.over] if query.over else None)
    asked = find_metrics("--metric", query.metrics, metric_names(results)) if results else []
    columns = varying_keys([each.settings for each in (groups or results)])
    if results and query.best:
        groups, results, words = _best(groups, results, query.best)
        notes.append(words)
    return View(query, results, keys, notes, columns, asked, groups, pairs)


def _best(
    groups: list[Setting] | None, results: list[TrialResult], asked: str
) -> tuple[list[Setting] | None, list[TrialResult], str]:
    """What is left of groups or trials, and in words what it was chosen from."""
    goal = parse_goal(asked, metric_names(results))
    choice = best_trial(results, goal) if groups is None else best_group(groups, goal)
    if choice is None:
        raise ConfigError(f"--best {asked}: no trial has a value of {goal.metric}")
    if groups is None:
        results, of = [results[choice.place]], len(results)
    else:
        groups, of = [groups[choice.place]], len(groups)
        results = groups[0].trials
    words = f"best of {counted(choice.among, 'trial' if groups is None else 'group')} by {goal}"
    why = "not done" if groups is None else "with fewer trials done"
    words += f"; not considered: {of - choice.among} {why}" if of > choice.among else ""
    return groups, results, words + ("" if choice.is_whole else "; it is not all done itself")
