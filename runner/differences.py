"""In which settings the trials of a sweep differ, from what each of them was resolved to.

What a sweep sets is not all that sets trials apart: an experiment file may have been submitted again with another
value in it, or with an override on the command line. Most trials share most groups word by word, so each distinct
text of a group is parsed once, and only where the texts differ.
"""

from collections.abc import Iterable
from typing import Any

from runner.errors import ConfigError
from runner.experiment import OUTSIDE_IDENTITY
from runner.files import read_whole
from runner.grouped_yaml import split_text
from runner.record import find_flaw
from runner.rundir import RunDir
from runner.strict_yaml import parse_yaml
from runner.sweep_config import SEARCH
from runner.tables import varying_keys


class Configs:
    """What several trials were resolved to, by dotted key.

    A config that cannot be read has no keys; it sets its trial apart from no other.
    """

    def __init__(self, groups: list[dict[str, str]], parsed: dict[str, dict[str, Any] | None] | None = None) -> None:
        self._groups = groups
        self._parsed = {} if parsed is None else parsed

    def take(self, places: list[int]) -> "Configs":
        """Those of some of the trials."""
        return Configs([self._groups[place] for place in places], self._parsed)

    def keys(self) -> list[str]:
        """Every key of any trial."""
        texts = dict.fromkeys(pair for each in self._groups for pair in each.items())
        return list(dict.fromkeys(key for name, text in texts for key in self._parse(name, text) or ()))

    def whole(self) -> list[dict[str, Any]]:
        """Every key of each trial."""
        return [
            {key: value for name, text in each.items() for key, value in (self._parse(name, text) or {}).items()}
            for each in self._groups
        ]

    def flaws(self) -> list[str]:
        """For each trial why its settings are not known, all or in part; empty where they are."""
        return [self._flaw(each) for each in self._groups]

    def _flaw(self, groups: dict[str, str]) -> str:
        if not groups:
            return "config.yaml cannot be read"
        torn = next((name for name, text in groups.items() if self._parse(name, text) is None), None)
        return f"config.yaml is damaged: {torn} is no YAML" if torn else ""

    def setting_keys(self) -> list[str]:
        """Every key that may be a setting: not those of what a search was told, which repeat others."""
        return [key for key in self.keys() if not key.startswith(f"{SEARCH}.parameters.")]

    def differing(self, overrides: list[dict[str, Any]], also: Iterable[str] = ()) -> list[dict[str, Any]]:
        """For each trial its value of every key that a sweep set in any of them, in which they differ, or in `also`.

        `overrides` is what the sweep set in each. Keys that do not change what a trial computes are left out; of the
        search that it is of, its number is there.
        """
        told = [flatten(each) for each in overrides]
        chosen = dict.fromkeys([*(key for each in told for key in each), *also])
        names = dict.fromkeys(name for each in self._groups for name in each)
        wanted = {key.partition(".")[0] for key in chosen} | chosen.keys()
        configs: list[dict[str, Any]] = [{} for _ in told]
        varying: dict[str, None] = {}
        whole = [each for each in self._groups if not self._flaw(each)]
        for name in names:
            texts = dict.fromkeys(each.get(name, "") for each in whole)
            differ = name not in OUTSIDE_IDENTITY and name != SEARCH and len(texts) > 1
            if name in wanted or differ:
                for config, own in zip(configs, self._groups, strict=True):
                    config.update(self._parse(name, own.get(name, "")) or {})
            if differ:
                varying |= dict.fromkeys(varying_keys([self._parse(name, text) or {} for text in texts]))
        for config in configs:
            _forget_undrawn(config)
        told_apart = {**chosen, **varying}
        return [
            {key: config.get(key, each.get(key)) for key in told_apart if key in config or key in each}
            for config, each in zip(configs, told, strict=True)
        ]

    def _parse(self, name: str, text: str) -> dict[str, Any] | None:
        if text not in self._parsed:
            self._parsed[text] = _parse_group(name, text)
        return self._parsed[text]


def read_settings(runs: list[RunDir], overrides: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """For each trial its value of every dotted key that a sweep set in any of them, or in which they differ.

    Then every key of their configs, from which the short name of a setting has to tell it.
    """
    configs = Configs([split_groups(run) for run in runs])
    return configs.differing(overrides), configs.setting_keys()


def read_configs(runs: list[RunDir]) -> list[dict[str, Any]]:
    """Every dotted key of each trial's config."""
    return Configs([split_groups(run) for run in runs]).whole()


def split_groups(run: RunDir) -> dict[str, str]:
    """The text of config.yaml by top-level key; nothing where it cannot be read, or is not as it was written."""
    try:
        content = read_whole(run.config)
    except (OSError, ValueError):
        return {}
    return {} if find_flaw(content) else split_text(content.decode())


def _forget_undrawn(config: dict[str, Any]) -> None:
    """Until a trial of a search starts, what it will be told stands in its config for the sake of the form only."""
    if config.get(f"{SEARCH}.drawn") is False:
        start = f"{SEARCH}.parameters."
        for key in [key for key in config if key.startswith(start)]:
            config.pop(key.removeprefix(start).rpartition(".")[0], None)


def _parse_group(name: str, text: str) -> dict[str, Any] | None:
    """The dotted keys of one group, None where it cannot be read; a group that was left out has none."""
    if not text:
        return {}
    try:
        document = parse_yaml(text, name)[0]
    except ConfigError:
        return None
    return flatten(document if isinstance(document, dict) else {name: document})


def flatten(mapping: dict[str, Any], at: str = "") -> dict[str, Any]:
    """The dotted keys of a mapping of mappings."""
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        flat |= flatten(value, f"{at}{key}.") if isinstance(value, dict) and value else {f"{at}{key}": value}
    return flat
