"""Several trials in one job: which of them go together, and what the job asks its cluster for. Values only.

Trials of one kind share a job, on one node. Without `trials_per_job` each has a job of its own.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from itertools import pairwise
from typing import Any

from runner.config import ResourcesConfig
from runner.explain import OptionError
from runner.layout import layout
from runner.profile import Profile


def plan_packs(kinds: Sequence[Hashable], site: Profile) -> list[tuple[int, ...]]:
    """The trials of each job by their places: as few jobs as there must be, those of a kind of nearly equal size.

    Jobs come in the order of their first trials.
    """
    groups: dict[Hashable, list[int]] = {}
    for place, kind in enumerate(kinds):
        groups.setdefault(kind, []).append(place)
    packs = []
    for group in groups.values():
        jobs = -(-len(group) // site.trials_per_job)
        packs += [
            tuple(group[begin:end]) for begin, end in pairwise(len(group) * job // jobs for job in range(jobs + 1))
        ]
    return sorted(packs)


def count_fitting(kinds: Sequence[Hashable], site: Profile, room: int) -> int:
    """How many of the first trials need no more than so many jobs."""
    packed, jobs = Counter[Hashable](), 0
    for place, kind in enumerate(kinds):
        jobs += packed[kind] % site.trials_per_job == 0
        if jobs > room:
            return place
        packed[kind] += 1
    return len(kinds)


def trials_at_once(site: Profile, trials: int) -> int:
    """How many trials run at a time in a job that holds so many."""
    return min(site.trials_at_once or site.trials_per_job, trials, site.parallel)


def jobs_at_once(site: Profile, packs: Sequence[Sequence[int]]) -> int:
    """How many jobs run at a time: `parallel` bounds trials."""
    return max(site.parallel // trials_at_once(site, max(map(len, packs), default=1)), 1)


def check_pack(site: Profile, resources: ResourcesConfig) -> None:
    """Raise OptionError for trials that cannot share a job: of several nodes, or with more ranks than it has GPUs."""
    if not site.is_packed:
        return
    ranks = resources.ranks
    nodes, _ = layout(ranks, site.gpus_per_node)
    if nodes > 1:
        problem = f"a trial of {ranks} ranks takes {nodes} nodes, and the trials of a job share one"
        raise OptionError("trials_per_job", f"{site.trials_per_job} is not allowed; {problem}; allowed: 1")
    if site.gpus_per_job is not None and site.gpus_per_job < ranks:
        problem = f"each of the {ranks} ranks of a trial needs a GPU of its own"
        raise OptionError("gpus_per_job", f"{site.gpus_per_job} is not allowed; {problem}")


def check_kinds(site: Profile, kinds: Iterable[ResourcesConfig]) -> None:
    """Raise OptionError for resources that a site's nodes, or the jobs of several trials there, cannot have."""
    for resources in kinds:
        layout(resources.ranks, site.gpus_per_node)
        check_pack(site, resources)


def count_cpus(site: Profile, resources: ResourcesConfig, trials: int) -> int:
    """CPUs of a job that holds so many trials."""
    return trials_at_once(site, trials) * resources.ranks * (site.cpus_per_task or resources.cpus_per_rank)


def count_gpus(site: Profile, resources: ResourcesConfig, trials: int) -> int:
    """GPUs of a job that holds so many trials: they share those of one trial unless the profile says more."""
    if site.gpus_per_node is None:
        return 0
    return min(site.gpus_per_job or resources.ranks, trials_at_once(site, trials) * resources.ranks)


def pack_parameters(site: Profile, resources: ResourcesConfig, trials: int) -> dict[str, Any]:
    """What a job that holds so many trials asks for, in place of the same keys of `layout.submitit_parameters`.

    Its one task starts their ranks. Raises: OptionError.
    """
    check_pack(site, resources)
    cpus, gpus = count_cpus(site, resources, trials), count_gpus(site, resources, trials)
    return {
        "nodes": 1,
        "ntasks_per_node": 1,
        "cpus_per_task": cpus,
        **({"gpus_per_node": gpus} if gpus else {}),
        # srun does not take it from the job, and would bind all trials to one CPU.
        "srun_args": ["--kill-on-bad-exit=1", f"--cpus-per-task={cpus}"],
    }
