"""What a name on the command line stands for: `gamma` for method.gamma, `knn_top1` for test/knn_top1."""

import difflib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from runner.errors import ConfigError
from runner.explain import did_you_mean
from runner.tables import keys_named

ALL = "all"
"""Stands for every metric."""


def find_key(option: str, name: str, differing: Sequence[str], others: Iterable[str] = ()) -> str:
    """The one key that `name` is, or is the end of; those in which trials differ come first.

    Raises: ConfigError that begins with the option, when there is none or more than one.
    """
    others = list(others)
    for keys in (differing, others):
        found = keys_named(name, keys)
        if len(found) == 1:
            return found[0]
        if found:
            raise ConfigError(f"{option} {name}: the sweep sets {', '.join(found)}; give one of them in full")
    ends = {key.rpartition(".")[2] for key in [*differing, *others]}
    close = difflib.get_close_matches(name, [*differing, *others, *sorted(ends)], 1)
    hint = f'did you mean "{close[0]}"?' if close else f"it sets: {', '.join(differing) or 'nothing'}"
    raise ConfigError(f"{option} {name}: no trial of the sweep sets it; {hint}")


def find_metrics(option: str, patterns: Iterable[str], names: Sequence[str]) -> list[str]:
    """The metrics of the given names, in the order given; a name may have * and ?, or leave out what is before the /.

    Raises: ConfigError that begins with the option for a name that no trial has.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        chosen = [name for name in names if pattern == ALL or fnmatchcase(name, pattern)]
        chosen = chosen or [name for name in names if fnmatchcase(name.partition("/")[2], pattern)]
        if not chosen:
            raise ConfigError(f"{option} {pattern}: no trial has such a metric; {did_you_mean(pattern, names)}")
        found |= dict.fromkeys(chosen)
    return list(found)


def find_metric(option: str, name: str, names: Sequence[str]) -> str:
    """The one metric of that name. Raises: ConfigError when there is none or more than one."""
    found = find_metrics(option, [name], names)
    if len(found) > 1:
        raise ConfigError(f"{option} {name}: stands for {', '.join(found)}; give one of them")
    return found[0]
