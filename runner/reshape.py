"""Train a trial on another number of ranks from now on: what that needs, checked before anything is changed."""

from runner.config import Trial
from runner.errors import CheckpointError, ConfigError
from runner.experiment import load_trial, validate
from runner.explain import OptionError, counted
from runner.files import write_yaml
from runner.rundir import RunDir


def plan_reshape(runs: list[RunDir], ranks: int | None, is_elastic: bool) -> dict[RunDir, Trial]:
    """The new config of each trial that gets one; nothing is changed.

    Raises: ConfigError naming the trial where it cannot be: its batch does not divide, it has statistics of each
    rank's own, or a checkpoint of another number of ranks while `is_elastic` is false.
    """
    planned: dict[RunDir, Trial] = {}
    if ranks is None and not is_elastic:
        return planned
    for run in runs:
        trial = load_trial(run.config)
        wanted = trial.resources.ranks if ranks is None else ranks
        if wanted == trial.resources.ranks and not is_elastic:
            continue
        resources = trial.resources.model_copy(update={"ranks": wanted, "elastic": is_elastic})
        mapping = trial.model_copy(update={"resources": resources}).model_dump(mode="json")
        try:
            planned[run] = validate(mapping)
        except OptionError as error:
            raise ConfigError(f"--ranks {wanted}: trial {run.trial}: {error}") from None
        _check_checkpoint(run, planned[run])
    return planned


def reshape(run: RunDir, trial: Trial) -> None:
    """Write down what `plan_reshape` has planned; the trial keeps its id, which does not depend on its resources."""
    write_yaml(run.config, trial.model_dump(mode="json"))


def _check_checkpoint(run: RunDir, trial: Trial) -> None:
    from runner import checkpoint, elastic, lineage

    name, _ = lineage.newest_valid(run)
    if name is None or (saved := checkpoint.world_size(run, name)) == trial.resources.ranks:
        return
    if not trial.resources.elastic:
        raise ConfigError(
            f"--ranks {trial.resources.ranks}: trial {run.trial} has a checkpoint of {counted(saved, 'rank')}; add "
            "--elastic to go on from it: the same samples in the same order, equal but for rounding"
        )
    whole, parts = checkpoint.load_parts(run, name, [])
    try:
        elastic.check_batch_norm(whole.shared["method"], trial.train.sync_batch_norm)
        elastic.merge(parts, seed=trial.train.seed, rank=0, step=whole.step)
    except CheckpointError as error:
        raise ConfigError(f"--ranks {trial.resources.ranks}: trial {run.trial}: {error}") from None
