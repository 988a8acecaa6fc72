"""A trial of a search on its ranks: what it is told before it is built, and whether it ends before its time."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from runner.config import Trial
from runner.errors import ConfigError
from runner.explain import OptionError, did_you_mean
from runner.faults import NO_FAULTS, Faults
from runner.files import write_yaml
from runner.group import Group
from runner.rundir import RunDir
from runner.search import Told, apply_parameters, ask, read_reports, read_study, read_told, write_told
from runner.search_config import SearchConfig
from runner.strict_yaml import parse_yaml
from runner.study import is_to_be_pruned


@dataclass
class Pruning:
    """Whether a trial of a search ends before its planned steps."""

    search: SearchConfig
    run: RunDir
    step: int | None = None
    """At which it was pruned; None while it is not."""

    def decide(self, step: int, group: Group, faults: Faults = NO_FAULTS) -> bool:
        """Whether the trial ends at this step, where it was just evaluated and its row written; a collective call.

        Rank 0 decides.
        """
        if self.search.pruner is None:
            return False
        if group.agree_max(int(group.is_main and self._decide(step, faults))):
            self.step = step
        return self.step == step

    def _decide(self, step: int, faults: Faults) -> bool:
        told = read_told(self.run)
        # A copy that is trained alone has nobody to be compared with.
        if told is None:
            return False
        reports = read_reports(self.run, self.search.metric)
        if not is_to_be_pruned(self.search, read_study(self.run.path.parent, self.search), reports):
            return False
        faults.at("search.prune")
        # First of all: another attempt that goes through this step again ends at it, whatever the others did meanwhile.
        write_told(self.run, replace(told, pruned_step=step))
        faults.at("search.pruned")
        return True


def settle_parameters(
    trial: Trial, run: RunDir, group: Group, faults: Faults = NO_FAULTS
) -> tuple[Trial, Pruning | None]:
    """The trial with its parameters, and when it ends before its time; a collective call.

    Rank 0 asks, once in the life of the trial, and brings the config of the run folder up to date. A trial that is of
    no search, or whose config was copied after the draw, is what it is. Raises: ConfigError, on all ranks alike.
    """
    if trial.search is None:
        return trial, None
    answer: Any = {}
    if group.is_main:
        try:
            told = read_told(run)
            if told is None and not trial.search.drawn:
                told = ask(trial.search, run, faults)
            if told is not None:
                answer = asdict(told)
        except ConfigError as error:
            answer = {"error": str(error)}
    answer = group.broadcast_json(answer)
    if "error" in answer:
        raise ConfigError(answer["error"])
    if not answer:
        return trial, Pruning(trial.search, run)
    told = Told(**answer)
    drawn = apply_parameters(trial, told.parameters)
    if group.is_main and drawn != trial:
        faults.at("search.config")
        overrides = {key: value for key, value in _read_overrides(run).items() if key not in told.parameters}
        write_yaml(run.overrides, {**overrides, **told.parameters})
        write_yaml(run.config, drawn.model_dump(mode="json"))
    assert drawn.search is not None
    return drawn, Pruning(drawn.search, run, told.pruned_step)


def check_metric(search: SearchConfig, metrics: Mapping[str, float]) -> None:
    """Raise OptionError where an evaluation does not give what is searched for, though it is of those data."""
    data, _, _ = search.metric.partition("/")
    if search.metric not in metrics and any(name.startswith(f"{data}/") for name in metrics):
        raise OptionError(
            "search.metric", f'"{search.metric}" was not measured; {did_you_mean(search.metric, metrics)}'
        )


def _read_overrides(run: RunDir) -> dict[str, Any]:
    document, _ = parse_yaml(run.overrides.read_text(), str(run.overrides))
    return document if isinstance(document, dict) else {}
