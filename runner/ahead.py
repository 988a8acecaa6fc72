"""What stands in the way of a submission, found out on the login node and not after hours in the queue."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runner.acceptance import check_cluster, check_container, check_modules, check_time
from runner.after import jobs_to_wait_for
from runner.arrays import tell_rest, tightest
from runner.config import ResourcesConfig, Trial
from runner.dispatch import Waiting, batch_script
from runner.errors import SubmissionError
from runner.explain import OptionError
from runner.limits import Limits, read_cluster, read_limits
from runner.named import ResolvedTrial, list_sources
from runner.packing import check_kinds, count_fitting, plan_packs
from runner.plan import Plan
from runner.preflight import check_data, check_space, measure_kept
from runner.profile import Profile, locate
from runner.request import Request
from runner.rundir import RunDir
from runner.status import read_statuses
from runner.submission import SUBMISSIONS


@dataclass(frozen=True)
class Ahead:
    """What is known of a place before anything goes there."""

    limits: Limits | None = None
    waiting: Waiting | None = None

    def count_fitting(self, kinds: Sequence[ResourcesConfig], site: Profile) -> int:
        """How many of the first trials there is room for; says so where that is not all."""
        bound = tightest(self.limits.bounds) if self.limits is not None else None
        if bound is None:
            return len(kinds)
        fitting = count_fitting(kinds, site, bound.room)
        if line := tell_rest(len(kinds), bound, fitting):
            print(f"runner: {line}", file=sys.stderr, flush=True)
        return fitting


def look_ahead(plan: Plan, request: Request, after: Sequence[RunDir] = ()) -> Ahead:
    """Look at everything that could stop what a plan submits, while nothing has been written.

    Raises: ConfigError, DataError or SubmissionError for what would.
    """
    sent, folder, site = request.pairs(plan), request.folder, request.site
    if not sent:
        return Ahead()
    check_sources(sent, site)
    check_space(folder, len(sent), measure_kept(folder, sent[0][0].checkpoint.keep))
    if site.cluster != "slurm":
        return Ahead(waiting=plan_waiting(after, site))
    limits = look_at_cluster([trial.resources for trial, _ in sent], site, folder, request.profile)
    return Ahead(limits, plan_waiting(after, site))


def look_at_cluster(kinds: Sequence[ResourcesConfig], site: Profile, folder: Path, profile: str) -> Limits:
    """What the cluster has room for, once nothing is found that would stop trials of these kinds; writes nothing.

    Raises: ConfigError, with the line of the profile, and SubmissionError for what would.
    """
    new = folder / SUBMISSIONS / "NEW"
    try:
        check_kinds(site, set(kinds))
        packs = plan_packs(kinds, site)
        sizes = {kinds[pack[0]]: len(pack) for pack in sorted(packs, key=len)}
        scripts = {resources: batch_script(resources, 1, site, new, trials=size) for resources, size in sizes.items()}
        check_modules(site)
        check_container(site)
        cluster = read_cluster()
        check_cluster(site, cluster, scripts, sizes)
        limits = read_limits(site, len(packs), cluster)
        check_time(site, limits.longest)
    except OptionError as error:
        if error.key.startswith("resources."):
            raise
        raise locate(error, profile) from None
    return limits


def check_sources(pairs: Sequence[tuple[Trial, ResolvedTrial]], site: Profile) -> None:
    """Raise DataError for data of trials that are not there; each choice of data is looked at once."""
    # Trials of a sweep share the groups that it does not set.
    choices = {(id(trial.data), id(trial.evaluate)): (trial, options) for trial, options in pairs}
    for trial, options in choices.values():
        check_data(list_sources(trial, options), site)


def plan_waiting(after: Sequence[RunDir], site: Profile) -> Waiting | None:
    """What trials wait for that run after these; None where they need not. Raises: SubmissionError if in vain."""
    if not after:
        return None
    if site.cluster != "slurm":
        raise SubmissionError("--after: a local queue does not wait for others; submit once they are done")
    jobs = jobs_to_wait_for(read_statuses(list(after)))
    return Waiting(jobs, after) if jobs else None
