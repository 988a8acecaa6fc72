"""What an experiment file asks for at one place: read and checked, before anything is written."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from runner import sweep
from runner.config import Trial
from runner.dispatch import bad_nodes
from runner.experiment import load_experiment, warnings
from runner.explain import OptionError
from runner.files import check_private, masked, remove_empty
from runner.interval import longest_stop_seconds
from runner.lock import locked
from runner.named import ResolvedTrial, foreign_packages, plug_in_names, resolve_trials
from runner.orphans import settle_orphans
from runner.packing import check_kinds
from runner.plan import Plan
from runner.preflight import check_root, check_scheduler, check_shared
from runner.profile import Profile, advice, lead_advice, load_profile
from runner.rundir import RunDir, experiment_dir, find_configured
from runner.schema import Document
from runner.search import as_drawn
from runner.submission import SUBMISSIONS
from runner.survey import make_plan, read_world
from runner.sweep import Variant, trials

LOOKED_AT = 1000
"""So many trials tell how long a save takes."""


@dataclass(frozen=True)
class Request:
    """What an experiment file asks for, validated, and where it is to run."""

    experiment: str
    trials: list[tuple[Variant, Trial]]
    options: list[ResolvedTrial]
    """Of the plug-ins, trial by trial."""

    site: Profile
    profile: str
    """Where that was read from: a file, or a name."""

    folder: Path
    """Of the experiment, under the run root."""

    advice: tuple[str, ...] = ()

    def plan(self) -> Plan:
        """What applying it would do as things are now; changes nothing."""
        return make_plan(self.experiment, self.trials, self.site, self.folder, read_world(self.folder))

    def pairs(self, plan: Plan) -> list[tuple[Trial, ResolvedTrial]]:
        """The trials that a plan of it submits."""
        chosen = {item.run for item in plan.of("submit")}
        pairs = zip(self.trials, self.options, strict=True)
        return [
            (trial, options) for (variant, trial), options in pairs if RunDir(self.folder / variant.trial_id) in chosen
        ]

    def settled_plan(self) -> Plan:
        """The same, after the jobs of submissions that were cut off are put right; call under the folder's lock."""
        for line in settle_orphans(self.folder):
            print(f"runner: {line}", file=sys.stderr)
        return self.plan()


def read_request(path: Path, overrides: list[str], profile: str, root: Path) -> Request:
    """Read and check everything that a submission needs; asks no scheduler and writes nothing.

    Raises: ConfigError for the file or the profile.
    """
    site = load_profile(profile)
    experiment = load_experiment(path, overrides)
    expanded = trials(experiment)
    # Every plug-in choice is resolved now: a typo dies at submission and not after hours in the queue.
    options = resolve_trials(expanded, experiment.document)
    resolve_trials(sweep.extremes(expanded, experiment.document), experiment.document)
    check_weights(expanded, experiment.document)
    folder = experiment_dir(root.absolute(), experiment.name)
    expanded = as_drawn(expanded, folder)
    if site.cluster == "slurm":
        check_kinds(site, {trial.resources for _, trial in expanded})
    check_private(folder / SUBMISSIONS, folder.parent)
    cuda = has_gpus(site)
    lines = [*advice(site), *lead_advice(site, longest_stop(folder)), *sweep.advice(experiment)]
    lines += [line for _, trial in expanded for line in warnings(trial, cuda)]
    if site.snapshot:
        chosen = {plug_in_names(trial): trial for _, trial in expanded}
        others = dict.fromkeys(foreign for trial in chosen.values() if (foreign := foreign_packages(trial)))
        lines += [f"{each}: is not in the copy of the code; jobs run what is there when they start" for each in others]
    if site.cluster == "slurm":
        lines += [f"node {each.node} is left out: {each.why}" for each in bad_nodes(root.absolute())]
    return Request(experiment.name, expanded, options, site, profile, folder, tuple(dict.fromkeys(lines)))


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


@contextmanager
def holding(request: Request) -> Iterator[None]:
    """Hold the experiment's folder while a plan is made and carried out; a mistake leaves nothing of it.

    Raises: SubmissionError for a cluster that cannot be reached from here.
    """
    folder, site = request.folder, request.site
    check_scheduler(site)
    check_root(folder)
    check_shared(folder.parent, {trial.resources for _, trial in request.trials}, site)
    top = folder.parent if folder.parent.exists() else folder.parents[1]
    try:
        with masked(site.umask), locked(folder):
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
    found = [longest_stop_seconds(run.attempt_rows()) for run in find_configured(folder)[:LOOKED_AT]]
    return max((seconds for seconds in found if seconds is not None), default=None)
