"""Trials that go once more: each to where it went last, or to a place that is named."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from runner.config import ResourcesConfig
from runner.dispatch import send
from runner.errors import SubmissionError
from runner.experiment import load_trial
from runner.files import masked
from runner.preflight import check_scheduler
from runner.profile import Profile, load_profile
from runner.rundir import RunDir
from runner.submission import SubmissionDir

Shipment = tuple[Profile, list[tuple[RunDir, ResourcesConfig]]]
"""Trials of one experiment, with what each runs on, that go to one place."""


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
    shipments: dict[Profile, list[tuple[RunDir, ResourcesConfig]]] = {}
    for place, members in places.items():
        shipment = shipments.setdefault(load_profile(place), [])
        shipment += [(run, resources.get(run) or load_trial(run.config).resources) for run in members]
    return list(shipments.items())


def ship(shipments: list[Shipment], folder: Path, stop_after: int | None = None) -> None:
    """Submit trials of one experiment folder again; call under its lock. `stop_after` ends each early (on Slurm)."""
    for site, members in shipments:
        check_scheduler(site)
        with masked(site.umask):
            send(members, site, folder, stop_after)
