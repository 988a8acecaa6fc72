"""Decide what to submit, then submit it once: one job array per submission and resource class."""

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from runner.ahead import Ahead, check_sources, look_ahead
from runner.arrays import plan_arrays
from runner.code_snapshot import planned_home
from runner.dispatch import RefusedError, batch_script, send
from runner.errors import DataError
from runner.explain import counted
from runner.faults import NO_FAULTS, Faults
from runner.grouped_yaml import GroupTexts
from runner.packing import jobs_at_once, plan_packs
from runner.plan import Item, Plan
from runner.preflight import check_same
from runner.prepare import prepare_all
from runner.provenance import collect
from runner.request import Request, holding, read_request
from runner.rundir import RunDir
from runner.submission import SUBMISSIONS


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
