"""What is on disk and in the queue of the trials that a plan is about: read once, and one question to the scheduler."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from runner.config import Trial
from runner.errors import ConfigError
from runner.evidence import has_checkpoint
from runner.experiment import OUTSIDE_IDENTITY, Change, find_changes
from runner.grouped_yaml import GroupTexts, split_text
from runner.plan import ALIVE, Found, Plan, compare
from runner.profile import Profile
from runner.record import read_end, read_overrides
from runner.rundir import RunDir, find_configured
from runner.status import Ask, Row, read_many, read_statuses
from runner.strict_yaml import parse_yaml
from runner.sweep import Variant

COMPARED = tuple(key for key in Trial.model_fields if key in OUTSIDE_IDENTITY - {"name", "rehearse"})
"""Groups of a config whose changes a plan tells. Interruptions on purpose belong to a submission, not to a trial."""


@dataclass(frozen=True)
class World:
    """The trials of an experiment that have a folder."""

    rows: tuple[Row, ...] = ()
    configs: dict[RunDir, str] = field(default_factory=dict)
    """The texts of config.yaml, of trials that are not done."""


def read_world(folder: Path, ask: Ask | None = None) -> World:
    """An experiment's folder and its jobs as they are now; `ask` answers for Slurm jobs, else Slurm does."""
    rows = read_statuses(find_configured(folder), ask, read_end)
    open_runs = [row.run for row in rows if row.state != "done"]
    texts = dict(zip(open_runs, read_many(open_runs, _read_config), strict=True))
    return World(tuple(rows), texts)


def _read_config(run: RunDir) -> str:
    try:
        return run.config.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def make_plan(
    experiment: str, trials: Sequence[tuple[Variant, Trial]], site: Profile, folder: Path, world: World
) -> Plan:
    """What applying an experiment would do to each trial; changes nothing. `folder` is that of the experiment."""
    first = trials[0][1]
    named = {RunDir(folder / variant.trial_id): variant.overrides for variant, _ in trials}
    configs, profiles = _Configs(first, world.configs), _Profiles(site)
    found = {row.run: _describe(row, row.run in named, configs, profiles) for row in world.rows}
    gone = {run: read_overrides(run) for run in found if run not in named}
    settings = {key: getattr(first, key).model_dump(mode="json") for key in COMPARED}
    return Plan(experiment, compare(named, found, gone), settings, site.model_dump(mode="json"))


def _describe(row: Row, is_named: bool, configs: "_Configs", profiles: "_Profiles") -> Found:
    found = Found(row.state, row.note, row.settled, bool(row.record.damaged), row.job_id)
    if not is_named or found.damaged or row.state == "done" or row.record.job is None:
        return found
    changes = configs.changes(row.run)
    site_changes = profiles.changes(row.record.job["submission"]) if row.state in ALIVE else ()
    strands = configs.reshapes(changes) and has_checkpoint(row.run)
    return replace(found, changes=changes, site_changes=site_changes, strands=strands)


class _Configs:
    """Which settings outside the identity the configs of a sweep's trials have that its file does not.

    They are the same for all trials of a file, and each distinct text of a config's group is parsed once.
    """

    def __init__(self, trial: Trial, read: Mapping[RunDir, str]) -> None:
        self._is_elastic = trial.resources.elastic
        self._read = read
        texts = GroupTexts().of(trial)
        self._texts = {key: texts[key] for key in COMPARED}
        self._seen: dict[tuple[str, str], tuple[Change, ...]] = {}

    def changes(self, run: RunDir) -> tuple[Change, ...]:
        groups = split_text(self._read[run])
        return tuple(change for key in COMPARED if key in groups for change in self._differing(key, groups[key]))

    def reshapes(self, changes: tuple[Change, ...]) -> bool:
        """Whether checkpoints of another number of ranks would be in the way."""
        return not self._is_elastic and any(change.key == "resources.ranks" for change in changes)

    def _differing(self, key: str, text: str) -> tuple[Change, ...]:
        if text == self._texts[key]:
            return ()
        if (key, text) not in self._seen:
            self._seen[key, text] = tuple(find_changes(_parse(text).get(key), _parse(self._texts[key])[key], key))
        return self._seen[key, text]


class _Profiles:
    """Where the profiles of submissions differ from the present one; each is read once."""

    def __init__(self, site: Profile) -> None:
        self._site = site.model_dump(mode="json")
        self._seen: dict[str, tuple[Change, ...]] = {}

    def changes(self, submission: str) -> tuple[Change, ...]:
        if submission not in self._seen:
            path = Path(submission) / "profile.yaml"
            old = _parse(path.read_text()) if path.exists() else {}
            self._seen[submission] = tuple(find_changes(old, self._site, "profile"))
        return self._seen[submission]


def _parse(text: str) -> dict[str, Any]:
    """The mapping in a text; an empty one where that cannot be read."""
    try:
        document, _ = parse_yaml(text, "")
    except ConfigError:
        return {}
    return document if isinstance(document, dict) else {}
