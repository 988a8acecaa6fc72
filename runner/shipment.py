"""Trials that go once more: each to where it went last, or to a place that is named."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from runner.ahead import look_at_cluster
from runner.arrays import tightest
from runner.config import ResourcesConfig
from runner.dispatch import send
from runner.errors import SubmissionError
from runner.experiment import load_trial
from runner.files import masked
from runner.limits import Limits
from runner.packing import count_fitting
from runner.preflight import check_scheduler
from runner.profile import Profile, load_profile
from runner.rundir import RunDir
from runner.submission import SubmissionDir


@dataclass(frozen=True)
class Shipment:
    """Trials of one experiment that go to one place."""

    site: Profile
    members: list[tuple[RunDir, ResourcesConfig]]
    """With what each runs on."""

    place: str = ""
    """The profile's file, or its name."""

    limits: Limits | None = None
    """Of the cluster, where they have been looked at."""

    @property
    def runs(self) -> list[RunDir]:
        return [run for run, _ in self.members]


def plan_shipments(
    runs: list[RunDir], profile: str | None, resources: Mapping[RunDir, ResourcesConfig] = MappingProxyType({})
) -> list[Shipment]:
    """Where trials go once more: to `profile`, else each where it went last. Changes nothing.

    What a trial runs on is what `resources` says, else what its config does.

    Raises: ConfigError for a profile or a config that cannot be read.
    """
    places: dict[str, list[RunDir]] = {}
    for run in runs:
        place = profile or str(SubmissionDir(Path(run.job_rows()[-1]["submission"])).profile)
        if profile is None and not Path(place).exists():
            raise SubmissionError(f"trial {run.trial}: {place} is gone; say where with --on PROFILE")
        places.setdefault(place, []).append(run)
    # Submissions by one profile hold a copy each; what goes to one place is one shipment, so that `parallel` holds.
    shipments: dict[Profile, Shipment] = {}
    for place, members in places.items():
        site = load_profile(place)
        shipment = shipments.setdefault(site, Shipment(site, [], place))
        shipment.members.extend((run, resources.get(run) or load_trial(run.config).resources) for run in members)
    return list(shipments.values())


def check_shipment(shipment: Shipment, folder: Path) -> Shipment:
    """As much of it as there is room for, once nothing is found that would stop it; writes nothing.

    Raises: ConfigError and SubmissionError for what would.
    """
    site, kinds = shipment.site, [resources for _, resources in shipment.members]
    check_scheduler(site)
    if site.cluster != "slurm":
        return shipment
    limits = look_at_cluster(kinds, site, folder, shipment.place)
    bound = tightest(limits.bounds)
    fitting = len(kinds) if bound is None else count_fitting(kinds, site, bound.room)
    return replace(shipment, members=shipment.members[:fitting], limits=limits)


def ship(shipment: Shipment, folder: Path, stop_after: int | None = None) -> None:
    """Submit trials of one experiment folder again; call under its lock. `stop_after` ends each early (on Slurm)."""
    with masked(shipment.site.umask):
        send(shipment.members, shipment.site, folder, stop_after, shipment.limits)
