"""Decide what to submit, then submit it once: one job array per submission and resource class."""

import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from runner import sweep
from runner.code_snapshot import planned_home
from runner.config import ResourcesConfig, Trial
from runner.dispatch import SUBMISSIONS, RefusedError, bad_nodes, batch_script, send
from runner.experiment import load_experiment, load_trial, warnings
from runner.explain import OptionError, counted
from runner.faults import NO_FAULTS, Faults
from runner.files import (
    GROUP_READABLE,
    PRIVATE,
    check_private,
    masked,
    remove_empty,
    replacing,
    write_yaml,
)
from runner.grouped_yaml import GroupTexts
from runner.interval import longest_stop_seconds
from runner.lock import locked
from runner.named import resolve_trials
from runner.orphans import settle_orphans
from runner.plan import Item, Plan
from runner.preflight import check_same, check_scheduler, check_shared, resolved
from runner.profile import Profile, advice, layout, lead_advice, load_profile
from runner.provenance import collect, write_origin
from runner.rundir import RunDir, experiment_dir, find_trials
from runner.schema import Document
from runner.survey import make_plan, read_world
from runner.sweep import Variant, trials

LOOKED_AT = 1000
"""So many trials tell how long a save takes."""


@dataclass(frozen=True)
class Request:
    """What an experiment file asks for, validated, and where it is to run."""

    experiment: str
    trials: list[tuple[Variant, Trial]]
    site: Profile
    folder: Path
    """Of the experiment, under the run root."""

    advice: tuple[str, ...] = ()

    def plan(self) -> Plan:
        """What applying it would do as things are now; changes nothing."""
        return make_plan(self.experiment, self.trials, self.site, self.folder, read_world(self.folder))

    def settled_plan(self) -> Plan:
        """The same, after the jobs of submissions that were cut off are put right; call under the folder's lock."""
        for line in settle_orphans(self.folder):
            print(f"runner: {line}", file=sys.stderr)
        return self.plan()


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
            word = "submit" if item.submits else "keep"
            lines.append(f"{word:6}  {item.trial}  {item.state:9}  {item.settings()}")
        count = sum(item.submits for item in self.items)
        lines.append(f"{self.experiment}: {counted(len(self.items), 'trial')}, {count} to submit")
        return "\n".join(lines)


def submit(
    path: Path,
    overrides: list[str],
    profile: str,
    root: Path,
    dry_run: bool,
    command: list[str],
    faults: Faults = NO_FAULTS,
) -> Submission:
    """Expand an experiment, and submit the trials that are neither done nor alive.

    Raises: ConfigError for the file or the profile, SubmissionError when the cluster refuses.
    """
    request = read_request(path, overrides, profile, root)
    for line in request.advice:
        print(f"runner: {line}", file=sys.stderr)
    if dry_run:
        plan = request.plan()
        return Submission(request.experiment, plan.named, tuple(_scripts(plan, request)))
    with holding(request):
        plan = request.settled_plan()
        if plan.of("update") or plan.of("cancel"):
            told = f"{len(plan.of('update'))} changed, {len(plan.of('cancel'))} gone from the file and alive"
            print(f"runner: left alone: {told}; `runner apply` asks about them", file=sys.stderr)
        submit_chosen(plan, request, command, faults)
    return Submission(request.experiment, plan.named)


def read_request(path: Path, overrides: list[str], profile: str, root: Path) -> Request:
    """Read and check everything that a submission needs; asks no scheduler and writes nothing.

    Raises: ConfigError for the file or the profile.
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
    return Request(experiment.name, expanded, site, folder, tuple(dict.fromkeys(lines)))


@contextmanager
def holding(request: Request) -> Iterator[None]:
    """Hold the experiment's folder while a plan is made and carried out; a mistake leaves nothing of it.

    Raises: SubmissionError for a cluster that cannot be reached from here.
    """
    folder, site = request.folder, request.site
    check_scheduler(site)
    check_shared(folder.parent, {trial.resources for _, trial in request.trials}, site)
    top = folder.parent if folder.parent.exists() else folder.parents[1]
    try:
        with masked(GROUP_READABLE if site.group_readable else PRIVATE), locked(folder):
            yield
    finally:
        remove_empty(folder / SUBMISSIONS, top)


def has_gpus(site: Profile) -> bool:
    """Whether trials run on GPUs: what the profile says of a cluster, and what this machine has without one."""
    if site.cluster == "slurm":
        return site.gpus_per_node is not None
    import torch

    return torch.cuda.is_available()


def longest_stop(folder: Path) -> float | None:
    """The longest any trial of an experiment took from a signal to its saved state; None when none was signalled."""
    found = [longest_stop_seconds(run.attempt_rows()) for run in find_trials(folder)[:LOOKED_AT]]
    return max((seconds for seconds in found if seconds is not None), default=None)


def submit_chosen(plan: Plan, request: Request, command: list[str], faults: Faults = NO_FAULTS) -> None:
    """Make the run folders and send them off; of new ones that the cluster refused nothing stays. Call in `holding`."""
    trial_of = {request.folder / variant.trial_id: trial for variant, trial in request.trials}
    chosen = [(item, trial_of[item.run.path]) for item in plan.of("submit")]
    if not chosen:
        return
    texts = GroupTexts()
    for item, trial in chosen:
        check_same(item.run, trial, texts)
    origin = collect(command, request.folder.parent if request.site.snapshot else None)
    fresh = [item.run for item, _ in chosen if not item.run.path.exists()]
    for index, (item, trial) in enumerate(chosen):
        faults.at("submit.folder")
        prepare(item.run, choose_rehearsal(trial, index), item.overrides, origin, texts, faults)
    faults.at("submit.send")
    try:
        send([(item.run, trial.resources) for item, trial in chosen], request.site, request.folder)
    except RefusedError:
        for run in fresh:
            if not run.job_rows():
                shutil.rmtree(run.path)
        raise
    faults.at("submit.end")


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


def prepare(
    run: RunDir,
    trial: Trial,
    overrides: dict[str, Any],
    origin: tuple[dict[str, Any], str],
    texts: GroupTexts | None = None,
    faults: Faults = NO_FAULTS,
) -> None:
    """Make a run folder: what the trial is, what the sweep set, and where it comes from (`provenance.collect`).

    `texts` has the configs of a sweep's trials.
    """
    run.path.mkdir(parents=True, exist_ok=True)
    run.logs.mkdir(exist_ok=True)
    if not run.job_rows():
        # What was submitted before goes on with the code it has.
        write_origin(run, origin)
    write_yaml(run.overrides, overrides)
    faults.at("submit.config")
    # Last: a folder counts as a trial once its config is there.
    with replacing(run.config) as file:
        file.write("".join((texts or GroupTexts()).of(resolved(trial)).values()).encode())


def _scripts(plan: Plan, request: Request) -> list[str]:
    """What sbatch would be given, one script a resource class; nothing is written."""
    if request.site.cluster != "slurm":
        return []
    submits = {item.trial for item in plan.of("submit")}
    counts = Counter(trial.resources for variant, trial in request.trials if variant.trial_id in submits)
    folder, site = request.folder, request.site
    code = planned_home(folder.parent) if site.snapshot else None
    return [
        batch_script(resources, count, site, folder / SUBMISSIONS / "NEW", code) for resources, count in counts.items()
    ]
