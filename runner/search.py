"""A search and the run folders of its trials: what each is told when it starts, and what the search is told of it.

The run folders are the truth about a search. `search.json` holds what a trial was told, fixed the first time it starts:
a requeue, a second attempt and a kill at any place see the same parameters, or a fresh decision that nobody knew of.
How it ended is in its result.json. The study that a sampler works on is made from these; the journal beside them, in
ROOT/<experiment>/.search/<study>/, is a cache.
"""

import math
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from runner.config import Trial
from runner.errors import ConfigError
from runner.experiment import validate
from runner.explain import OptionError
from runner.faults import NO_FAULTS, Faults
from runner.files import read_json, read_rows, write_json
from runner.grouped_yaml import split_text
from runner.lock import locked
from runner.rundir import RunDir, find_configured
from runner.schema import build, set_key
from runner.search_config import SearchConfig
from runner.strict_yaml import flow, parse_yaml
from runner.study import Member, import_optuna, suggest
from runner.sweep import Variant
from runner.sweep_config import SEARCH

FOLDER = ".search"
PATIENCE_SECONDS = 60
"""For the others that ask at the same time; then a trial asks beside them, and knows a little less."""


@dataclass(frozen=True)
class Told:
    """What a search told a trial: its `search.json`."""

    study: str
    number: int
    parameters: dict[str, Any]
    pruned_step: int | None = None
    """At which it was to end; None while it goes on."""


def journal_of(folder: Path, study: str) -> Path:
    """The journal of a search, in the folder of its experiment."""
    return folder / FOLDER / study / "journal.log"


def read_told(run: RunDir) -> Told | None:
    """What a trial was told; None before its first start. Raises: ConfigError for a damaged file."""
    try:
        document = read_json(run.search)
        return None if document is None else Told(**document)
    except (ValueError, TypeError):
        problem = "is damaged; what the trial was told stands in config.yaml, or move its folder away"
        raise ConfigError(f"{run.search}: {problem}") from None


def write_told(run: RunDir, told: Told) -> None:
    write_json(run.search, asdict(told))


def read_search(run: RunDir) -> SearchConfig | None:
    """Which trial of which search a run folder is of; None if it is of none."""
    text = split_text(run.config.read_text(encoding="utf-8")).get(SEARCH, "")
    group = parse_yaml(text, str(run.config))[0][SEARCH] if text else None
    return None if group is None else build(SearchConfig, group, SEARCH)


def apply_parameters(trial: Trial, parameters: dict[str, Any]) -> Trial:
    """The trial with what was drawn for it; raises OptionError for what it may not have."""
    mapping = trial.model_dump(mode="json")
    for key, value in parameters.items():
        mapping = set_key(mapping, key, value)
    return validate(set_key(mapping, "search.drawn", True))


def as_drawn(expanded: list[tuple[Variant, Trial]], folder: Path) -> list[tuple[Variant, Trial]]:
    """The trials of a file as their run folders have them: one that has started keeps what it was told."""
    if all(trial.search is None for _, trial in expanded):
        return expanded
    import_optuna()
    pairs = []
    for variant, trial in expanded:
        told = None if trial.search is None else read_told(RunDir(folder / variant.trial_id))
        # Of what it may not have the trial has failed, and its folder has the config from before the draw.
        with suppress(OptionError):
            trial = trial if told is None else apply_parameters(trial, told.parameters)
        if told is not None:
            variant = replace(variant, overrides={**variant.overrides, **told.parameters})
        pairs.append((variant, trial))
    return pairs


def ask(search: SearchConfig, run: RunDir, faults: Faults = NO_FAULTS) -> Told:
    """Draw the parameters of a trial by what is known of the others, and write them down for good."""
    import_optuna()
    faults.at("search.ask")
    folder, journal = run.path.parent, journal_of(run.path.parent, search.study)
    with _turn(journal.parent):
        # Another attempt may have been here meanwhile.
        if (told := read_told(run)) is not None:
            return told
        members = read_study(folder, search)
        told = Told(search.study, search.number, suggest(search, search.number, members))
        faults.at("search.drawn")
        write_told(run, told)
        faults.at("search.fixed")
        _write_journal(journal, search, [*members, Member(run.trial, told.number, told.parameters)])
    words = " ".join(f"{key}={flow(value)}" for key, value in told.parameters.items())
    print(f"runner: trial {told.number} of search {told.study}: {words}", flush=True)
    return told


def tell(search: SearchConfig, folder: Path, faults: Faults = NO_FAULTS) -> list[Member]:
    """Bring the journal up to date with the run folders of an experiment: the ends of trials, whoever they were.

    A journal that cannot be written changes nothing: whoever asks next does it. Returns what is known of all trials.
    """
    import_optuna()
    faults.at("search.tell")
    journal = journal_of(folder, search.study)
    try:
        with _turn(journal.parent):
            members = read_study(folder, search)
            _write_journal(journal, search, members)
    except OSError as error:
        print(f"runner: {error}; the journal of the search stays as it is", file=sys.stderr, flush=True)
        members = read_study(folder, search)
    return members


def read_study(folder: Path, search: SearchConfig) -> list[Member]:
    """Every trial of a search that was told its parameters; of those that ended long ago, the journal remembers."""
    from runner.search_journal import read_members

    known = read_members(journal_of(folder, search.study), search)
    found = (_read_member(run, search, known) for run in find_configured(folder))
    return sorted((member for member in found if member is not None), key=lambda member: member.number)


def read_reports(run: RunDir, metric: str) -> tuple[float, ...]:
    """The metric at each evaluation of a trial so far."""
    return tuple(float(row[metric]) for row in read_rows(run.metrics) if isinstance(row.get(metric), int | float))


def _read_member(run: RunDir, search: SearchConfig, known: dict[str, Member]) -> Member | None:
    try:
        told = read_told(run)
    except ConfigError:
        return None
    if told is None or told.study != search.study:
        return None
    stamp = _stamp(run)
    if stamp and run.trial in known and known[run.trial].stamp == stamp:
        return known[run.trial]
    member = Member(run.trial, told.number, told.parameters, stamp=stamp)
    if not stamp:
        return member
    result = None
    with suppress(ValueError):
        result = read_json(run.result)
    if result is None:
        return replace(member, state="failed")
    reports, value = read_reports(run, search.metric), result.get("metrics", {}).get(search.metric)
    if not isinstance(value, int | float) or not math.isfinite(value):
        return replace(member, state="failed", reports=reports)
    return replace(member, state="pruned" if result.get("pruned") else "done", value=float(value), reports=reports)


def _stamp(run: RunDir) -> str:
    """Which file told the end of a trial, with its time and size; empty while it goes on."""
    for path in (run.result, run.failure, run.cancelled):
        with suppress(FileNotFoundError):
            status = path.stat()
            return f"{path.name} {status.st_mtime_ns} {status.st_size}"
    return ""


def _write_journal(journal: Path, search: SearchConfig, members: list[Member]) -> None:
    from runner.search_journal import write_members

    write_members(journal, search, members)


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """Wait for those that ask at the same time, so that no two are told without knowing of each other."""
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder, PATIENCE_SECONDS))
        except ConfigError as error:
            print(f"runner: {error}; asking beside it", flush=True)
        yield
