"""Which trials are meant, by conditions on their whole config."""

from collections.abc import Sequence

from runner.conditions import Condition
from runner.differences import flatten, read_configs
from runner.errors import ConfigError
from runner.explain import did_you_mean
from runner.record import read_overrides
from runner.rundir import RunDir
from runner.tables import keys_named


def select(runs: list[RunDir], conditions: Sequence[Condition]) -> list[RunDir]:
    """The trials that meet all of the conditions. Raises ConfigError for a key that none of them has."""
    if not conditions or not runs:
        return runs
    # Of a config that cannot be read, what the sweep set is known all the same.
    configs = [config or flatten(read_overrides(run)) for run, config in zip(runs, read_configs(runs), strict=True)]
    keys = list(dict.fromkeys(key for config in configs for key in config))
    asked = [(find_key(each.key, keys), each) for each in conditions]
    return [
        run
        for run, config in zip(runs, configs, strict=True)
        if all(each.holds({key: config[key]} if key in config else {}) for key, each in asked)
    ]


def find_key(name: str, keys: Sequence[str]) -> str:
    """The key of that name, or the one that ends with it. Raises ConfigError when there is none, or several."""
    ends = keys_named(name, keys)
    if len(ends) == 1:
        return ends[0]
    if ends:
        raise ConfigError(f"{name}: may be {', '.join(ends[:4])}; give more of the key")
    names = keys if "." in name else short_ends(keys)
    raise ConfigError(f"{name}: no trial has this key; {did_you_mean(name, names)}")


def short_ends(keys: Sequence[str]) -> set[str]:
    """`lr` of `optimizer.lr`, and `encoder` of `encoder.name`."""
    return {key.removesuffix(".name").rpartition(".")[2] for key in keys}
