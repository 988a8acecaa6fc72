"""Decide what to submit, then submit it once: one job array per submission and resource class."""

import shutil
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from runner import sweep
from runner.code_snapshot import planned_home
from runner.config import ResourcesConfig, Trial
from runner.dispatch import SUBMISSIONS, RefusedError, bad_nodes, batch_script, send
from runner.errors import UserError
from runner.experiment import load_experiment, load_trial, warnings
from runner.explain import OptionError, counted
from runner.files import GROUP_READABLE, PRIVATE, check_private, masked, remove_empty, write_yaml
from runner.interval import longest_stop_seconds
from runner.lock import locked
from runner.named import resolve_trials
from runner.orphans import settle_orphans
from runner.preflight import check_same, check_scheduler, check_shared, resolved
from runner.profile import Profile, advice, layout, lead_advice, load_profile
from runner.provenance import collect, write_origin
from runner.rundir import RunDir, experiment_dir, find_trials
from runner.schema import Document
from runner.status import read_statuses
from runner.strict_yaml import flow
from runner.sweep import Variant, trials


@dataclass(frozen=True)
class Item:
    """One trial of a plan."""

    run: RunDir
    trial: Trial
    overrides: dict[str, Any]
    state: str
    """What it is now; `new` when it has no folder yet."""

    submits: bool


@dataclass(frozen=True)
class Submission:
    """What a submission is about to do, or has done."""

    experiment: str
    items: tuple[Item, ...]
    scripts: tuple[str, ...] = ()
    """The sbatch scripts of a dry run."""

    @property
    def runs(self) -> list[RunDir]:
        return [item.run for item in self.items]

    def table(self) -> str:
        """One line a trial, and a count."""
        lines = []
        for item in self.items:
            settings = " ".join(f"{key}={flow(value)}" for key, value in item.overrides.items()) or "as written"
            lines.append(f"{'submit' if item.submits else 'keep  '}  {item.run.trial}  {item.state:9}  {settings}")
        count = sum(item.submits for item in self.items)
        lines.append(f"{self.experiment}: {counted(len(self.items), 'trial')}, {count} to submit")
        return "\n".join(lines)


def decide(state: str, settled: bool) -> bool:
    """Whether a trial is submitted: what is new or got lost is, unless it may be alive where we cannot ask.

    What failed or was cancelled waits for `runner retry`.
    """
    return state == "new" or (state == "unknown" and settled)


def submit(path: Path, overrides: list[str], profile: str, root: Path, dry_run: bool, command: list[str]) -> Submission:
    """Expand an experiment, and submit the trials that are neither done nor alive.

    Raises: ConfigError for the file or the profile, SubmissionError when the cluster refuses.
    """
    site = load_profile(profile)
    experiment = load_experiment(path, overrides)
    expanded = trials(experiment)
    # Every plug-in choice is resolved now: a typo dies at submission and not after hours in the queue.
    resolve_trials(expanded, experiment.document)
    check_weights(expanded, experiment.document)
    folder = experiment_dir(root.absolute(), experiment.name)
    if site.cluster == "slurm":
        for resources in {trial.resources for _, trial in expanded}:
            layout(resources.ranks, site.gpus_per_node)
    check_private(folder / SUBMISSIONS, folder.parent)
    cuda = has_gpus(site)
    lines = [*advice(site), *lead_advice(site, longest_stop(folder)), *sweep.advice(experiment)]
    lines += [line for _, trial in expanded for line in warnings(trial, cuda)]
    if site.cluster == "slurm":
        lines += [f"node {each.node} is left out: {each.why}" for each in bad_nodes(root.absolute())]
    for line in dict.fromkeys(lines):
        print(f"runner: {line}", file=sys.stderr)
    runs = [RunDir(folder / variant.trial_id) for variant, _ in expanded]
    if dry_run:
        items = _plan(expanded, runs)
        return Submission(experiment.name, items, tuple(_scripts(items, site, folder)))
    check_scheduler(site)
    check_shared(folder.parent, {trial.resources for _, trial in expanded}, site)
    top = folder.parent if folder.parent.exists() else folder.parents[1]
    try:
        with masked(GROUP_READABLE if site.group_readable else PRIVATE), locked(folder):
            for line in settle_orphans(folder):
                print(f"runner: {line}", file=sys.stderr)
            items = _plan(expanded, runs)
            if chosen := [item for item in items if item.submits]:
                _submit_chosen(chosen, site, folder, collect(command, folder.parent if site.snapshot else None))
    except UserError:
        remove_empty(folder / SUBMISSIONS, top)
        raise
    return Submission(experiment.name, items)


def has_gpus(site: Profile) -> bool:
    """Whether trials run on GPUs: what the profile says of a cluster, and what this machine has without one."""
    if site.cluster == "slurm":
        return site.gpus_per_node is not None
    import torch

    return torch.cuda.is_available()


def longest_stop(folder: Path) -> float | None:
    """The longest any trial of an experiment took from a signal to its saved state; None when none was signalled."""
    found = [longest_stop_seconds(run.attempt_rows()) for run in find_trials(folder)]
    return max((seconds for seconds in found if seconds is not None), default=None)


def _submit_chosen(chosen: list[Item], site: Profile, folder: Path, origin: tuple[dict[str, Any], str]) -> None:
    """Make the run folders and send them off; of new ones that the cluster refused nothing stays."""
    for item in chosen:
        check_same(item.run, item.trial)
    fresh = [item.run for item in chosen if not item.run.path.exists()]
    for index, item in enumerate(chosen):
        prepare(item.run, choose_rehearsal(item.trial, index), item.overrides, origin)
    try:
        send([(item.run, item.trial.resources) for item in chosen], site, folder)
    except RefusedError:
        for run in fresh:
            if not run.job_rows():
                shutil.rmtree(run.path)
        raise


def check_weights(expanded: list[tuple[Variant, Trial]], document: Document) -> None:
    """Raise ConfigError for an `init_from` that is no exported file; each is read once."""
    places = {trial.init_path: variant for variant, trial in expanded if trial.init_path is not None}
    if not places:
        return
    from runner.export import read_export

    for path, variant in places.items():
        try:
            read_export(path)
        except OptionError as error:
            raise document.locate(error, variant.origins) from None


Shipment = tuple[Profile, list[tuple[RunDir, ResourcesConfig]]]
"""Trials of one experiment, with what each runs on, that go to one place."""


def plan_shipments(
    runs: list[RunDir], profile: str | None, resources: Mapping[RunDir, ResourcesConfig] = MappingProxyType({})
) -> list[Shipment]:
    """Where trials go once more: to `profile`, else each where it went last. Changes nothing.

    What a trial runs on is what `resources` says, else what its config does.

    Raises: ConfigError for a profile or a config that cannot be read.
    """
    by_profile: dict[str, list[RunDir]] = {}
    for run in runs:
        place = profile or str(Path(run.job_rows()[-1]["submission"]) / "profile.yaml")
        by_profile.setdefault(place, []).append(run)
    return [
        (load_profile(place), [(run, resources.get(run) or load_trial(run.config).resources) for run in members])
        for place, members in by_profile.items()
    ]


def ship(shipments: list[Shipment], folder: Path, stop_after: int | None = None) -> None:
    """Submit trials of one experiment folder again; call under its lock. `stop_after` ends each early (on Slurm)."""
    for site, members in shipments:
        check_scheduler(site)
        with masked(GROUP_READABLE if site.group_readable else PRIVATE):
            send(members, site, folder, stop_after)


def choose_rehearsal(trial: Trial, index: int) -> Trial:
    """Only the first `rehearse.trials` trials of a submission are interrupted on purpose."""
    if trial.rehearse is None or index < trial.rehearse.trials:
        return trial
    return trial.model_copy(update={"rehearse": None})


def prepare(run: RunDir, trial: Trial, overrides: dict[str, Any], origin: tuple[dict[str, Any], str]) -> None:
    """Make a run folder: what the trial is, what the sweep set, and where it comes from (`provenance.collect`)."""
    run.path.mkdir(parents=True, exist_ok=True)
    run.logs.mkdir(exist_ok=True)
    if not run.job_rows():
        # What was submitted before goes on with the code it has.
        write_origin(run, origin)
    write_yaml(run.overrides, overrides)
    # Last: a folder counts as a trial once its config is there.
    write_yaml(run.config, resolved(trial))


def _plan(expanded: list[tuple[Variant, Trial]], runs: list[RunDir]) -> tuple[Item, ...]:
    existing = [run for run in runs if run.config.exists()]
    rows = {row.trial: row for row in read_statuses(existing)}
    items = []
    for (variant, trial), run in zip(expanded, runs, strict=True):
        row = rows.get(run.trial)
        # A folder without a job is what a killed submission leaves.
        state = "new" if row is None or (row.state == "pending" and not run.job_rows()) else row.state
        # What is damaged may hold a result: nothing is done over it.
        settled = row is None or (row.settled and not row.record.damaged)
        items.append(Item(run, trial, variant.overrides, state, decide(state, settled)))
    return tuple(items)


def _scripts(items: tuple[Item, ...], site: Profile, folder: Path) -> list[str]:
    """What sbatch would be given, one script a resource class; nothing is written."""
    if site.cluster != "slurm":
        return []
    code = planned_home(folder.parent) if site.snapshot else None
    counts = Counter(item.trial.resources for item in items if item.submits)
    return [
        batch_script(resources, count, site, folder / SUBMISSIONS / "NEW", code) for resources, count in counts.items()
    ]
