"""What a sampler and a pruner make of the trials of a search: pure functions of values, by Optuna.

The study that Optuna works on is made anew in memory for each question, from what the trials' run folders say. So
nothing has to survive a kill but those, and the answer depends on them, the seed and the number of the trial alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal

from runner.distribution import Distribution, draw, round_within
from runner.errors import ConfigError
from runner.search_config import SearchOptions
from runner.strict_yaml import flow

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial


@dataclass(frozen=True)
class Member:
    """What a study knows of a trial whose parameters are drawn."""

    trial: str
    """Its id."""

    number: int
    parameters: dict[str, Any]
    state: Literal["running", "done", "pruned", "failed"] = "running"
    """Preempted, requeued or lost is running: it goes on with the same parameters."""

    value: float | None = None
    """Of the metric at the end; there for all that are done."""

    reports: tuple[float, ...] = ()
    """Of the metric at each evaluation; known once the trial has ended."""

    stamp: str = ""
    """Of the files that told its end."""


def suggest(search: SearchOptions, number: int, members: Sequence[Member]) -> dict[str, Any]:
    """The parameters of trial `number`, given the others; of those that run now a liar says that they came to nothing.

    Raises: ConfigError without Optuna.
    """
    if search.sampler == "random":
        return {key: draw(each, search.seed, key, number) for key, each in search.parameters.items()}
    study = make_study(search, members, _sampler(search, number))
    asked = study.ask({key: to_optuna(each) for key, each in search.parameters.items()})
    return {key: from_optuna(each, asked.params[key]) for key, each in search.parameters.items()}


def is_to_be_pruned(search: SearchOptions, members: Sequence[Member], reports: Sequence[float]) -> bool:
    """Whether a trial with these evaluations so far is to end now; only those that are done tell what is good."""
    pruner = search.pruner
    if pruner is None or not reports:
        return False
    import_optuna()
    from optuna.pruners import PercentilePruner

    share = 50.0 if pruner.percentile is None else pruner.percentile
    study = make_study(search, [member for member in members if member.state == "done"])
    study.pruner = PercentilePruner(share, pruner.startup_trials, pruner.warmup_evaluations)
    trial = study.ask()
    for index, value in enumerate(reports):
        trial.report(value, index)
    return bool(trial.should_prune())


def importances(search: SearchOptions, members: Sequence[Member]) -> dict[str, float]:
    """The share of each parameter in what sets the best trials apart from all; empty for fewer than eight of them."""
    done = [member for member in members if member.state == "done"]
    if len(done) < 8 or len({member.value for member in done}) < 2:
        return {}
    import_optuna()
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    evaluator = PedAnovaImportanceEvaluator()
    found: dict[str, float] = get_param_importances(make_study(search, done), evaluator=evaluator)
    return found


def best(search: SearchOptions, members: Sequence[Member]) -> Member | None:
    """The best of those that are done."""
    sign = 1 if search.direction == "minimize" else -1
    done = [member for member in members if member.state == "done"]
    return min(done, key=lambda member: sign * (member.value or 0.0), default=None)


def make_study(search: SearchOptions, members: Sequence[Member], sampler: "BaseSampler | None" = None) -> "Study":
    """An Optuna study in memory, in the order of the numbers."""
    optuna = import_optuna()
    study = optuna.create_study(direction=search.direction, sampler=sampler)
    study.add_trials([freeze(search, member) for member in sorted(members, key=lambda member: member.number)])
    return study


def freeze(search: SearchOptions, member: Member) -> "FrozenTrial":
    """A trial as Optuna has it; what was drawn by another version of the file's ranges keeps its value."""
    from optuna.trial import TrialState, create_trial

    states = {
        "running": TrialState.RUNNING,
        "done": TrialState.COMPLETE,
        "pruned": TrialState.PRUNED,
        "failed": TrialState.FAIL,
    }
    return create_trial(
        state=states[member.state],
        value=member.value,
        params={key: into_optuna(search.parameters[key], value) for key, value in member.parameters.items()},
        distributions={key: to_optuna(search.parameters[key]) for key in member.parameters},
        user_attrs={"trial": member.trial, "number": member.number, "stamp": member.stamp},
        intermediate_values=dict(enumerate(member.reports)),
    )


def to_optuna(distribution: Distribution) -> "BaseDistribution":
    """Choices are told as they are typed: Optuna takes no lists and mappings."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if distribution.choice is not None:
        return CategoricalDistribution(tuple(dict.fromkeys(map(flow, distribution.ends))))
    low, high = distribution.ends
    if distribution.whole is not None:
        return IntDistribution(low, high)
    return FloatDistribution(low, high, log=distribution.loguniform is not None)


def into_optuna(distribution: Distribution, value: Any) -> Any:
    return value if distribution.choice is None else flow(value)


def from_optuna(distribution: Distribution, value: Any) -> Any:
    if distribution.choice is not None:
        return next(choice for choice in distribution.ends if flow(choice) == value)
    if distribution.whole is not None:
        return int(value)
    return round_within(value, *distribution.ends)


def import_optuna() -> Any:
    """The library, quiet; raises ConfigError where it is not installed."""
    try:
        import optuna
    except ImportError:
        raise ConfigError("sweep.search: needs optuna: pip install -e '.[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _sampler(search: SearchOptions, number: int) -> "BaseSampler":
    from optuna.samplers import GPSampler, TPESampler

    seed = int.from_bytes(blake2b(f"{search.seed}/{number}".encode(), digest_size=4).digest(), "big")
    if search.sampler == "gp":
        return GPSampler(seed=seed, n_startup_trials=search.startup_trials)
    return TPESampler(seed=seed, n_startup_trials=search.startup_trials, constant_liar=True)
