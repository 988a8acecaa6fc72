"""What each trial of one or more sweeps gave.

No trial is ever left out unasked: what is not done yet, or failed, is there with its state and its last values.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.conditions import Condition
from runner.differences import Configs
from runner.record import is_evaluation, main_metric
from runner.results.names import find_key
from runner.results.registry import Entry, read_entries, read_entry
from runner.rundir import RunDir, find_trials
from runner.status import Row

EXPERIMENT = "experiment"
"""The setting that is the name of a trial's sweep, where several sweeps are in one table."""

_ABOUT = ("state", "trial")
"""What a condition may be on beside settings."""


@dataclass(frozen=True)
class TrialResult:
    """What one trial gave."""

    trial: str
    settings: dict[str, Any]
    """What sets the trials apart, whoever set it: the sweep, the file or the command line."""

    state: str
    metrics: dict[str, float]
    overrides: dict[str, Any] = field(default_factory=dict)
    """What the sweep set."""

    run: RunDir | None = None
    flaw: str = ""
    """What of it cannot be read."""

    known: tuple[str, ...] = ()
    """Every key of the sweeps' configs, from which the short name of a setting has to tell it."""

    is_certain: bool = True
    """Its config can be read; else nobody knows all that it was trained with, and no mean has it."""

    @property
    def counts(self) -> bool:
        """Whether it is one of those that a mean is of."""
        return self.state == "done" and self.is_certain

    @property
    def standing(self) -> str:
        """Its state; of one that is done and counts in no mean all the same, why."""
        return self.state if self.is_certain or self.state != "done" else "done, with a damaged config"

    def as_json(self) -> dict[str, Any]:
        return {
            "trial": self.trial,
            "overrides": self.overrides,
            "settings": self.settings,
            "state": self.state,
            "metrics": self.metrics,
        }


@dataclass(frozen=True)
class Selection:
    """The trials of a table."""

    results: list[TrialResult]
    count: int
    """Trials of the sweeps, whether the conditions keep them or not."""

    keys: dict[str, str]
    """The full key of each name that was given for one."""


def select(folders: list[Path], where: Iterable[Condition] = (), named: Mapping[str, str] | None = None) -> Selection:
    """The trials of the sweeps in these folders that meet every condition.

    `named` has the option that gives each name of a key; such a key is a setting of every trial, however equal its
    values are. Raises: ConfigError for a name that no trial has.
    """
    entries = [entry for folder in folders for entry in read_entries(find_trials(folder))]
    configs, sweeps = Configs([entry.groups for entry in entries]), name_sweeps(folders)
    settings, known = _settings(entries, configs, sweeps), tuple(configs.setting_keys())
    conditions, count = list(where), len(entries)
    if not conditions and not named:
        return Selection(_results(entries, settings, configs, known), count, {})
    differing, others = setting_keys(settings), [EXPERIMENT, *configs.keys()]
    keys = {name: find_key(option, name, differing, others) for name, option in (named or {}).items()}
    asked = [(each, find_key("--where", each.key, [*differing, *_ABOUT], others)) for each in conditions]
    if asked:
        settings = _settings(entries, configs, sweeps, [key for _, key in asked if key not in _ABOUT])
        kept = [place for place, entry in enumerate(entries) if _meets(asked, {**settings[place], **_about(entry)})]
        entries, configs = [entries[place] for place in kept], configs.take(kept)
    settings = _settings(entries, configs, sweeps, keys.values())
    return Selection(_results(entries, settings, configs, known), count, keys)


def read_results(rows: list[Row]) -> list[TrialResult]:
    """One result a trial, in the order given: final metrics, or the last ones of a trial that is not done."""
    entries = [read_entry(row) for row in rows]
    sweeps = name_sweeps([entry.run.path.parent for entry in entries])
    configs = Configs([entry.groups for entry in entries])
    return _results(entries, _settings(entries, configs, sweeps), configs, tuple(configs.setting_keys()))


def name_sweeps(folders: Iterable[Path]) -> dict[Path, str]:
    """What to call the sweep in each folder: by the folder's name, with as much of its path as tells it from others.

    A trial of one run root and its copy of another are two, and in one group would make its mean look surer.
    """
    distinct = list(dict.fromkeys(folders))
    deepest = max((len(folder.parts) for folder in distinct), default=1)
    for depth in range(1, deepest + 1):
        names = ["/".join(folder.parts[-depth:]) for folder in distinct]
        if len(set(names)) == len(names):
            break
    return dict(zip(distinct, names, strict=True)) if distinct else {}


def metric_names(results: Iterable[TrialResult]) -> list[str]:
    """Every metric of any trial: the main one first, then those of evaluations, then the others."""
    names = list(dict.fromkeys(name for result in results for name in result.metrics))
    main = main_metric(names)
    return sorted(names, key=lambda name: (name != main, not is_evaluation(name)))


def tell_flaws(results: Iterable[TrialResult]) -> list[str]:
    """A line for each trial of which something cannot be read."""
    return [f"{result.trial}: {result.flaw}" for result in results if result.flaw]


def known_keys(results: Iterable[TrialResult]) -> tuple[str, ...]:
    """Every key of the configs that these trials, read together, were chosen from."""
    return next((result.known for result in results), ())


def setting_keys(settings: Iterable[Mapping[str, Any]]) -> list[str]:
    """Every key of any of them, in order of appearance."""
    return list(dict.fromkeys(key for each in settings for key in each))


def _results(
    entries: list[Entry], settings: list[dict[str, Any]], configs: Configs, known: tuple[str, ...]
) -> list[TrialResult]:
    return [
        TrialResult(
            entry.run.trial,
            own,
            entry.state,
            entry.metrics,
            entry.overrides,
            entry.run,
            entry.flaw or flaw,
            known,
            is_certain=not flaw,
        )
        for entry, own, flaw in zip(entries, settings, configs.flaws(), strict=True)
    ]


def _settings(
    entries: list[Entry], configs: Configs, sweeps: Mapping[Path, str], also: Iterable[str] = ()
) -> list[dict[str, Any]]:
    settings = configs.differing([entry.overrides for entry in entries], [key for key in also if key != EXPERIMENT])
    if len(sweeps) < 2 and EXPERIMENT not in also:
        return settings
    names = [sweeps[entry.run.path.parent] for entry in entries]
    return [{EXPERIMENT: name, **own} for name, own in zip(names, settings, strict=True)]


def _about(entry: Entry) -> dict[str, Any]:
    return dict(zip(_ABOUT, (entry.state, entry.run.trial), strict=True))


def _meets(asked: list[tuple[Condition, str]], found: dict[str, Any]) -> bool:
    return all(condition.holds(_values(found, key)) for condition, key in asked)


def _values(found: dict[str, Any], key: str) -> dict[str, Any]:
    """The value of a key, if there is one; a sweep that is told by its path is also the one of its folder's name."""
    if key not in found:
        return {}
    more = {"folder": found[key].rpartition("/")[2]} if key == EXPERIMENT else {}
    return {key: found[key], **more}
