"""Which rows and columns a table has: of trials, of groups, of a pivot, of comparisons."""

from dataclasses import replace
from typing import Any

from runner.results.best import Goal, higher_is_better
from runner.results.compare import Pairs
from runner.results.groups import Setting, identity
from runner.results.order import sort_by_settings, sort_values
from runner.results.sheet import SPREADS, Cell, Number, Sheet, SpreadKind, number
from runner.results.trials import TrialResult, known_keys
from runner.tables import describe, format_value, short_names, varying_keys


def trials_sheet(results: list[TrialResult], keys: list[str], metrics: list[str]) -> Sheet:
    """One line a trial, ordered by their settings: some of these, then the metrics."""
    results = sort_by_settings(results, lambda result: result.settings)
    done = [result.state == "done" for result in results]
    rows: list[list[Cell]] = [
        [
            result.trial,
            *_settings(result.settings, keys),
            result.state,
            *(Number(result.metrics[name]) if name in result.metrics else "" for name in metrics),
        ]
        for result in results
    ]
    heads = ["trial", *short_names(keys, known_keys(results)), "state", *metrics]
    marked = comparable(metrics, [result.settings for result in results])
    return Sheet(heads, _mark_best(heads, rows, marked, done), metrics=frozenset(metrics))


def groups_sheet(groups: list[Setting], keys: list[str], metrics: list[str], spread: SpreadKind = "std") -> Sheet:
    """One line a group: some settings, n of how many, mean ± spread, and who is missing."""
    most = max((len(group.done) for group in groups), default=0)
    rows: list[list[Cell]] = [
        [
            *_settings(group.settings, keys),
            f"{len(group.done)}/{group.expected}",
            *(number(group.spread(name), spread, _partial(group, name)) for name in metrics),
            ", ".join(group.missing_words()),
        ]
        for group in groups
    ]
    known = groups[0].known if groups else ()
    heads = [*short_names(keys, known), "n", *metrics, "not counted"]
    whole = [len(group.done) == most for group in groups]
    rows = _mark_best(heads, rows, comparable(metrics, [group.settings for group in groups]), whole)
    over = short_names([over], known)[0] if groups and (over := groups[0].over) else ""
    if all(row[-1] == "" for row in rows):
        heads, rows = heads[:-1], [row[:-1] for row in rows]
    several = any(group.expected > 1 for group in groups)
    return Sheet(heads, rows, title=_title(spread, over, most, several), metrics=frozenset(metrics))


def pivot_sheet(groups: list[Setting], keys: tuple[str, str], metric: str, spread: SpreadKind = "std") -> Sheet:
    """One metric: a line for each value of the first key, a column for each of the second.

    `groups` are by these two keys. A cell that has fewer trials than the fullest says how many.
    """
    down, across = keys
    cells = {identity({key: group.settings.get(key, "") for key in keys}): group for group in groups}
    names, columns = (sort_values(group.settings.get(key, "") for group in groups) for key in keys)
    most = max((len(group.values(metric)) for group in groups), default=0)
    rows: list[list[Cell]] = []
    for value in names:
        row: list[Cell] = [format_value(value)]
        for other in columns:
            group = cells.get(identity({down: value, across: other}))
            row.append(_pivot_cell(group, metric, most, spread))
        rows.append(row)
    known = groups[0].known if groups else ()
    row_name, column_name = short_names(list(keys), known)
    heads = [row_name, *(f"{column_name} {format_value(value)}" for value in columns)]
    if comparable([metric], [trial.settings for group in groups for trial in group.trials]):
        rows = _mark_best_of_all(rows, metric)
    rest = varying_keys([trial.settings for group in groups for trial in group.trials])
    over = ", ".join(short_names([key for key in rest if key not in keys], known))
    missing = [words for group in groups for words in _missing(group, list(keys))]
    notes = [f"not counted: {', '.join(missing)}"] if missing else []
    several = any(len(group.trials) > 1 for group in groups)
    return Sheet(heads, rows, notes, f"{metric}: {_title(spread, over, most, several)}")


def pairs_sheet(compared: list[Pairs], metrics: list[str]) -> Sheet:
    """One line a metric: both means, their mean difference with its interval, n and p values."""
    keys = varying_keys([pairs.settings for pairs in compared])
    key, known = compared[0].key, compared[0].known
    first, second = (describe({key: value}, [key], known) for value in compared[0].values)
    rows: list[list[Cell]] = []
    title = f"{second} minus {first} over pairs of trials that are equal but for it, ± {SPREADS['ci']}"
    differ = dict.fromkeys(
        key for pairs in compared for key in varying_keys([pair[0].settings for pair in pairs.pairs])
    )
    notes = [f"pairs differ in {', '.join(short_names(list(differ), known))}"] if differ else []
    for pairs in compared:
        told = describe(pairs.settings, keys, known)
        if pairs.unpaired:
            notes.append(f"{told + ': ' if told else ''}no pair for {'; '.join(pairs.unpaired)}")
        for metric in metrics:
            rows.append([*_settings(pairs.settings, keys), metric, *_compared(pairs, metric)])
    if len(rows) > 1:
        notes.append(f"p values are of {len(rows)} single comparisons, not corrected for their number")
    heads = [*short_names(keys, known), "metric", first, second, "difference", "pairs", "p (t)", "p (Wilcoxon)"]
    return Sheet(heads, rows, notes, title)


def _compared(pairs: Pairs, metric: str) -> list[Cell]:
    one, other = pairs.means(metric)
    paired = pairs.compare(metric)
    if one is None or other is None or paired is None:
        return ["", "", "", f"0/{len(pairs.pairs) + len(pairs.unpaired)}", "", ""]
    return [
        Number(one.mean),
        Number(other.mean),
        number(paired.difference, "ci"),
        f"{paired.difference.n}/{len(pairs.pairs) + len(pairs.unpaired)}",
        *("" if p is None else f"{p:.2g}" for p in (paired.p_value, paired.wilcoxon_p_value)),
    ]


def _partial(group: Setting, metric: str) -> str:
    """How many of the trials that are done have a metric, where not all do."""
    count = len(group.values(metric))
    return "" if count == len(group.done) else f"n={count}"


def _pivot_cell(group: Setting | None, metric: str, most: int, spread: SpreadKind) -> Cell:
    if group is None:
        return ""
    count = len(group.values(metric))
    if not count:
        states = dict.fromkeys(trial.standing for trial in group.trials)
        return f"({', '.join(states)})"
    return number(group.spread(metric), spread, "" if count == most else f"n={count}")


def _missing(group: Setting, keys: list[str]) -> list[str]:
    return [
        f"{trial.trial} {trial.standing} ({describe(trial.settings, keys, group.known)})" for trial in group.missing
    ]


def _settings(settings: dict[str, Any], keys: list[str]) -> list[str]:
    return [format_value(settings[key]) if key in settings else "" for key in keys]


def _title(spread: SpreadKind, over: str, most: int, several: bool) -> str:
    """What the numbers are, where the fullest group has `most` trials that are done; `several` if any has more."""
    if most == 0:
        return "no trial is done"
    if most == 1:
        words = "at most one trial done each" if several else "one trial each"
        return f"{words}, over {over}" if over else words
    return f"mean ± {SPREADS[spread]}" + (f" over {over}" if over else "")


def comparable(metrics: list[str], settings: list[dict[str, Any]]) -> list[str]:
    """The metrics of which one value is better than another: training metrics of other methods measure other things."""
    if not any(key.startswith("method.") for key in varying_keys(settings)):
        return metrics
    return [metric for metric in metrics if not metric.startswith("train/")]


def _mark_best(heads: list[str], rows: list[list[Cell]], metrics: list[str], whole: list[bool]) -> list[list[Cell]]:
    """The best value of each metric is marked, of those that whole rows have of all their trials."""
    rows = [list(row) for row in rows]
    for metric in metrics:
        place = heads.index(metric)
        column = [
            row[place] if chosen and _is_of_all(row[place]) else "" for row, chosen in zip(rows, whole, strict=True)
        ]
        for at in _best_places(column, metric):
            rows[at][place] = replace(rows[at][place], is_best=True)  # type: ignore[type-var]
    return rows


def _mark_best_of_all(rows: list[list[Cell]], metric: str) -> list[list[Cell]]:
    flat = [cell for row in rows for cell in row]
    best = set(_best_places([cell if _is_of_all(cell) else "" for cell in flat], metric))
    marked = [replace(cell, is_best=True) if at in best else cell for at, cell in enumerate(flat)]  # type: ignore[type-var]
    width = len(rows[0]) if rows else 1
    return [marked[at : at + width] for at in range(0, len(marked), width)]


def _is_of_all(cell: Cell) -> bool:
    """Whether a number is of as many trials as stand beside it."""
    return isinstance(cell, Number) and not cell.note


def _best_places(column: list[Cell], metric: str) -> list[int]:
    goal = Goal(metric, higher_is_better(metric))
    ranks = {at: goal.rank(cell.value) for at, cell in enumerate(column) if isinstance(cell, Number)}
    best = min(ranks.values(), default=0.0)
    found = [at for at, rank in ranks.items() if rank == best]
    return found if len(found) < len(ranks) else []
