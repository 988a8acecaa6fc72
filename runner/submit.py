"""Decide what to submit, then submit it once: one job array per submission and resource class."""

import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from runner import sweep
from runner.acceptance import check_cluster, check_container, check_modules, check_time
from runner.after import jobs_to_wait_for
from runner.arrays import plan_arrays, tell_rest, tightest
from runner.code_snapshot import planned_home
from runner.config import ResourcesConfig, Trial
from runner.dispatch import RefusedError, Waiting, bad_nodes, batch_script, send
from runner.errors import DataError, SubmissionError
from runner.experiment import load_experiment, load_trial, warnings
from runner.explain import OptionError, counted
from runner.faults import NO_FAULTS, Faults
from runner.files import (
    GROUP_READABLE,
    PRIVATE,
    check_private,
    in_parallel,
    masked,
    remove_empty,
    replacing,
    sync_path,
    write_yaml,
)
from runner.grouped_yaml import GroupTexts
from runner.interval import longest_stop_seconds
from runner.limits import Limits, read_cluster, read_limits
from runner.lock import locked
from runner.named import ResolvedTrial, list_sources, resolve_trials
from runner.orphans import settle_orphans
from runner.packing import check_pack, count_fitting, jobs_at_once, plan_packs
from runner.plan import Item, Plan
from runner.preflight import (
    check_data,
    check_root,
    check_same,
    check_scheduler,
    check_shared,
    check_space,
    measure_kept,
    resolved,
)
from runner.profile import Profile, advice, layout, lead_advice, load_profile, locate
from runner.provenance import collect, write_origin
from runner.rundir import RunDir, experiment_dir, find_configured
from runner.schema import Document
from runner.search import as_drawn
from runner.status import read_statuses
from runner.submission import SUBMISSIONS, SubmissionDir
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


@dataclass(frozen=True)
class Submission:
    """What a submission is about to do, or has done."""

    experiment: str
    items: tuple[Item, ...]
    scripts: tuple[str, ...] = ()
    """The sbatch scripts of a dry run."""

    rest: int = 0
    """Trials for which the cluster has no room yet."""

    @property
    def runs(self) -> list[RunDir]:
        return [item.run for item in self.items]

    @property
    def sent(self) -> list[RunDir]:
        """Those that have been sent, now or before; of what there was no room for there is no folder."""
        return [run for run in self.runs if run.path.exists()]

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
    after: Sequence[RunDir] = (),
) -> Submission:
    """Expand an experiment, and submit the trials that are neither done nor alive; they run after those in `after`.

    Raises: ConfigError for the file or the profile, SubmissionError when the cluster refuses.
    """
    request = read_request(path, overrides, profile, root)
    for line in request.advice:
        print(f"runner: {line}", file=sys.stderr)
    if dry_run:
        plan = request.plan()
        try:
            check_sources(request.pairs(plan), request.site)
        except DataError as error:
            print(f"runner: would be refused: {error}", file=sys.stderr)
        return Submission(request.experiment, plan.named, tuple(_scripts(plan, request)))
    with holding(request):
        plan = request.settled_plan()
        if plan.of("update") or plan.of("cancel"):
            told = f"{len(plan.of('update'))} changed, {len(plan.of('cancel'))} gone from the file and alive"
            print(f"runner: left alone: {told}; `runner apply` asks about them", file=sys.stderr)
        if stopped := sum(item.state in ("failed", "cancelled") for item in plan.of("nothing")):
            told = f"{stopped} failed or cancelled: `runner retry {request.experiment}` goes on with them"
            print(f"runner: left alone: {told}", file=sys.stderr)
        ahead = look_ahead(plan, request, after)
        sent = submit_chosen(plan, request, command, ahead, faults)
    items = [replace(item, action="submit" if item.run in sent else "nothing") for item in plan.named]
    return Submission(request.experiment, tuple(items), rest=len(plan.of("submit")) - len(sent))


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
        for resources in {trial.resources for _, trial in expanded}:
            layout(resources.ranks, site.gpus_per_node)
            check_pack(site, resources)
    check_private(folder / SUBMISSIONS, folder.parent)
    cuda = has_gpus(site)
    lines = [*advice(site), *lead_advice(site, longest_stop(folder)), *sweep.advice(experiment)]
    lines += [line for _, trial in expanded for line in warnings(trial, cuda)]
    if site.cluster == "slurm":
        lines += [f"node {each.node} is left out: {each.why}" for each in bad_nodes(root.absolute())]
    return Request(experiment.name, expanded, options, site, profile, folder, tuple(dict.fromkeys(lines)))


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
    found = [longest_stop_seconds(run.attempt_rows()) for run in find_configured(folder)[:LOOKED_AT]]
    return max((seconds for seconds in found if seconds is not None), default=None)


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
    new = folder / SUBMISSIONS / "NEW"
    kinds = [trial.resources for trial, _ in sent]
    packs = plan_packs(kinds, site)
    sizes = {kinds[pack[0]]: len(pack) for pack in sorted(packs, key=len)}
    scripts = {resources: batch_script(resources, 1, site, new, trials=size) for resources, size in sizes.items()}
    try:
        check_modules(site)
        check_container(site)
        cluster = read_cluster()
        check_cluster(site, cluster, scripts, sizes)
        limits = read_limits(site, len(packs), cluster)
        check_time(site, limits.longest)
    except OptionError as error:
        raise locate(error, request.profile) from None
    return Ahead(limits, plan_waiting(after, site))


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


def submit_chosen(
    plan: Plan, request: Request, command: list[str], ahead: Ahead, faults: Faults = NO_FAULTS
) -> set[RunDir]:
    """Make the run folders and send them off, as many as there is room for; the trials that were sent.

    Of new ones that the cluster refused nothing stays. Call in `holding`.
    """
    trial_of = {RunDir(request.folder / variant.trial_id): trial for variant, trial in request.trials}
    texts = GroupTexts()
    for item in plan.of("submit"):
        check_same(item.run, trial_of[item.run], texts)
    chosen = plan.of("submit")
    chosen = chosen[: ahead.count_fitting([trial_of[item.run].resources for item in chosen], request.site)]
    if not chosen:
        return set()
    origin = collect(command, request.folder.parent if request.site.snapshot else None)
    fresh = [item.run for item in chosen if not item.run.path.exists()]
    prepare_all(chosen, trial_of, request.folder, origin, texts, faults)
    faults.at("submit.send")
    sent = [(item.run, trial_of[item.run].resources) for item in chosen]
    try:
        send(sent, request.site, request.folder, None, ahead.limits, ahead.waiting)
    except RefusedError:
        for run in fresh:
            if not run.job_rows():
                shutil.rmtree(run.path)
        raise
    faults.at("submit.end")
    return {item.run for item in chosen}


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
        place = profile or str(SubmissionDir(Path(run.job_rows()[-1]["submission"])).profile)
        if profile is None and not Path(place).exists():
            raise SubmissionError(f"trial {run.trial}: {place} is gone; say where with --on PROFILE")
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


def prepare_all(
    items: Sequence[Item],
    trial_of: Mapping[RunDir, Trial],
    folder: Path,
    origin: tuple[dict[str, Any], str],
    texts: GroupTexts,
    faults: Faults = NO_FAULTS,
) -> None:
    """`prepare` for each, several at once; new ones share the files that tell where they come from."""
    rehearsed = {item.run: choose_rehearsal(trial_of[item.run], index) for index, item in enumerate(items)}
    first = next((item for item in items if not item.run.job_rows()), None)
    like = first.run if first is not None else None

    def work(item: Item) -> None:
        faults.at("submit.folder")
        trial = rehearsed[item.run]
        prepare(item.run, trial, item.overrides, origin, texts, faults, like if item is not first else None)

    if first is not None:
        work(first)
    in_parallel(work, [item for item in items if item is not first])
    sync_path(folder)


def prepare(
    run: RunDir,
    trial: Trial,
    overrides: dict[str, Any],
    origin: tuple[dict[str, Any], str],
    texts: GroupTexts | None = None,
    faults: Faults = NO_FAULTS,
    like: RunDir | None = None,
) -> None:
    """Make a run folder: what the trial is, what the sweep set, and where it comes from (`provenance.collect`).

    `texts` has the configs of a sweep's trials; `like` is a folder that was made with the same origin.
    """
    run.path.mkdir(parents=True, exist_ok=True)
    if not run.job_rows():
        # What was submitted before goes on with the code it has.
        write_origin(run, origin, like)
    write_yaml(run.overrides, overrides, sync_folder=False)
    faults.at("submit.config")
    # Last: a folder counts as a trial once its config is there. It syncs the folder for all of them.
    with replacing(run.config) as file:
        file.write("".join((texts or GroupTexts()).of(resolved(trial)).values()).encode())


def _scripts(plan: Plan, request: Request) -> list[str]:
    """What sbatch would be given, one script an array; nothing is written."""
    if request.site.cluster != "slurm":
        return []
    submits = {item.trial for item in plan.of("submit")}
    kinds = [trial.resources for variant, trial in request.trials if variant.trial_id in submits]
    folder, site = request.folder, request.site
    code = planned_home(folder.parent) if site.snapshot else None
    # How many elements the cluster takes in one array is not asked here.
    packs = plan_packs(kinds, site)
    arrays = plan_arrays([kinds[pack[0]] for pack in packs], jobs_at_once(site, packs), max(len(packs), 1))
    scripts = []
    for array in arrays:
        members = [packs[place] for place in array.members]
        resources, trials = kinds[members[0][0]], max(map(len, members))
        submission = folder / SUBMISSIONS / "NEW"
        script = batch_script(resources, len(members), site, submission, code, array.at_once, trials=trials)
        scripts.append(script)
    return scripts
