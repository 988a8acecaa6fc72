"""What would make more of the time of trials useful, in words with numbers, where the numbers support it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from runner.errors import ConfigError
from runner.goodput import Account, format_seconds
from runner.interval import longest_stop_seconds
from runner.ledger import EVALUATION, IDLE, QUEUE, REDONE, RESTORING, SAVING, START_UP, USEFUL, Ledger
from runner.profile import Profile, lead_advice, load_profile
from runner.simulate import best_interval_seconds, overhead

LEAST_INTERRUPTIONS = 3
"""Fewer say little of how often they come."""

WORTH = 0.01
"""Of the time must another interval promise, to be worth a line."""

MUCH_STARTING, MUCH_EVALUATION, MUCH_IDLE, MUCH_QUEUE = 0.1, 0.25, 0.1, 0.5
"""Shares from which on advice is due: of the time with nodes; of the queue, of the wall time."""


@dataclass(frozen=True)
class Site:
    """What advice must know of where the trials ran."""

    profile: Profile | None = None
    stop_seconds: float | None = None
    """The longest time from a signal to the saved state."""


def read_site(accounts: Iterable[Account]) -> Site:
    """The profile of the last submission that can still be read, and how long stopping took."""
    records = [account.row.record for account in accounts]
    stops = [stop for record in records if (stop := longest_stop_seconds(record.attempts)) is not None]
    for folder in dict.fromkeys(record.job["submission"] for record in reversed(records) if record.job):
        try:
            return Site(load_profile(Path(folder) / "profile.yaml"), max(stops, default=None))
        except (ConfigError, OSError):
            continue
    return Site(None, max(stops, default=None))


def advise(total: Ledger, site: Site, trials: int) -> list[str]:
    """Advice from the sum of the ledgers of so many trials, a line each."""
    if total.held_seconds <= 0:
        return []
    return [
        *_on_interval(total),
        *_on_lead(total, site),
        *_on_start_up(total),
        *_on_queue(total, site, trials),
        *_on_evaluation(total),
        *_on_idleness(total),
    ]


def _on_interval(total: Ledger) -> Iterator[str]:
    """Young and Daly's interval against the one there was."""
    unplanned = [each for each in total.interruptions if each.is_of_the_site and not each.saved]
    if len(unplanned) < LEAST_INTERRUPTIONS or not total.saves or not total.seconds[SAVING]:
        return
    save, mtti = total.seconds[SAVING] / total.saves, total.held_seconds / len(unplanned)
    was = (total.seconds[USEFUL] + total.seconds[REDONE]) / total.saves
    best = best_interval_seconds(save, mtti)
    costs, would_cost = overhead(was, save, mtti), overhead(best, save, mtti)
    if costs - would_cost >= WORTH:
        yield (
            f"interval: a checkpoint came every {format_seconds(was)} of training and cost {save:.2f} s; "
            f"{len(unplanned)} interruptions saved nothing, one in {format_seconds(mtti)}. With one every "
            f"{format_seconds(best)} (Young, Daly) saving and redoing would take {would_cost:.1%} of the time, not "
            f"{costs:.1%}: checkpoint.every_minutes={best / 60:.2g}"
        )


def _on_lead(total: Ledger, site: Site) -> Iterator[str]:
    if site.profile is not None:
        yield from lead_advice(site.profile, site.stop_seconds)
    warned = [each for each in total.interruptions if each.cause in ("preempted", "time limit")]
    late = [each for each in warned if not each.saved]
    if late:
        stop = f"; where there was, it took up to {site.stop_seconds:.1f} s" if site.stop_seconds else ""
        yield (
            f"lead: for {len(late)} of {len(warned)} preemptions and time limits there was no time to save{stop}. They "
            f"cost {format_seconds(sum(each.redone_seconds for each in late))} of training: raise signal_lead_seconds, "
            "or the partition's GraceTime"
        )


def _on_start_up(total: Ledger) -> Iterator[str]:
    starting, launches = total.seconds[START_UP] + total.seconds[RESTORING], max(len(total.starts), 1)
    if starting > MUCH_STARTING * total.held_seconds:
        yield (
            f"packing: start-up and restoring took {starting / total.held_seconds:.0%} of the time with nodes, "
            f"{format_seconds(sum(total.starts) / launches)} in each of {launches} launches that began to train: "
            "longer jobs, or several trials on one node at a time, lose less"
        )


def _on_queue(total: Ledger, site: Site, trials: int) -> Iterator[str]:
    if total.seconds[QUEUE] > MUCH_QUEUE * total.wall_seconds:
        limit = f", and parallel={site.profile.parallel} lets no more run at once" if site.profile else ""
        here = site.profile is not None and site.profile.cluster == "local"
        remedy = "each on fewer ranks" if here else "several on a node, or ask for fewer nodes and less time"
        yield (
            f"packing: {total.seconds[QUEUE] / total.wall_seconds:.0%} of the wall time was spent in the queue, "
            f"{format_seconds(total.seconds[QUEUE] / trials)} a trial{limit}: run more at once, {remedy}"
        )


def _on_evaluation(total: Ledger) -> Iterator[str]:
    if total.seconds[EVALUATION] > MUCH_EVALUATION * total.held_seconds:
        yield (
            f"evaluation: it took {total.seconds[EVALUATION] / total.held_seconds:.0%} of the time with nodes, "
            f"training {total.seconds[USEFUL] / total.held_seconds:.0%}: raise evaluate.every_epochs or every_steps, "
            "or leave out a probe"
        )


def _on_idleness(total: Ledger) -> Iterator[str]:
    if total.interruptions and total.seconds[IDLE] > MUCH_IDLE * total.held_seconds:
        worst = max(total.interruptions, key=lambda each: each.idle_seconds)
        yield (
            f"idle: {total.seconds[IDLE] / total.held_seconds:.0%} of the time with nodes was of no use; the longest "
            f"stretch, {format_seconds(worst.idle_seconds)}, is of attempt {worst.attempt}, {worst.cause}"
        )
