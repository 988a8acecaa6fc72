"""In which settings the trials of a sweep differ, from what each of them was resolved to.

What a sweep sets is not all that sets trials apart: an experiment file may have been submitted again with another
value in it, or with an override on the command line. Most trials share most groups word by word, so each distinct
text of a group is parsed once, and only where the texts differ.
"""

import re
from typing import Any

from runner.errors import ConfigError
from runner.experiment import OUTSIDE_IDENTITY
from runner.rundir import RunDir
from runner.strict_yaml import one_line, parse_yaml
from runner.tables import varying_keys

DAMAGED = "damaged"
"""Stands for the key of a config that cannot be read; its value equals no other trial's."""

_TOP_LEVEL_KEY = re.compile(r"^([A-Za-z_][\w.-]*):", re.MULTILINE)


def read_settings(runs: list[RunDir], overrides: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each trial its value of every dotted key that a sweep set in any of them, or in which they differ.

    `overrides` is what the sweep set in each. Keys that do not change what a trial computes are left out.
    """
    told = [flatten(each) for each in overrides]
    chosen = dict.fromkeys(key for each in told for key in each)
    groups = [_split_groups(run) for run in runs]
    names = dict.fromkeys(name for each in groups for name in each if name not in OUTSIDE_IDENTITY)
    wanted = {key.partition(".")[0] for key in chosen} | chosen.keys()
    parsed: dict[str, dict[str, Any]] = {}
    configs: list[dict[str, Any]] = [{} for _ in runs]
    for name in names:
        texts = [each.get(name, "") for each in groups]
        if name in wanted or len(set(texts)) > 1:
            for config, text in zip(configs, texts, strict=True):
                if text not in parsed:
                    parsed[text] = _parse_group(name, text)
                config.update(parsed[text])
    keys = {**chosen, **dict.fromkeys(varying_keys(configs))}
    return [
        {key: config.get(key, each.get(key)) for key in keys if key in config or key in each}
        for config, each in zip(configs, told, strict=True)
    ]


def read_configs(runs: list[RunDir]) -> list[dict[str, Any]]:
    """Every dotted key of each trial's config."""
    parsed: dict[str, dict[str, Any]] = {}
    configs: list[dict[str, Any]] = []
    for run in runs:
        config: dict[str, Any] = {}
        for name, text in _split_groups(run).items():
            if text not in parsed:
                parsed[text] = _parse_group(name, text)
            config |= parsed[text]
        configs.append(config)
    return configs


def _split_groups(run: RunDir) -> dict[str, str]:
    """The text of config.yaml by top-level key."""
    try:
        text = run.config.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return {DAMAGED: run.trial}
    starts = list(_TOP_LEVEL_KEY.finditer(text))
    ends = [*(start.start() for start in starts), len(text)][1:]
    groups = {start[1]: text[start.start() : end] for start, end in zip(starts, ends, strict=False)}
    return groups or {DAMAGED: run.trial}


def _parse_group(name: str, text: str) -> dict[str, Any]:
    """The dotted keys of one group; a group that was left out has none."""
    if not text:
        return {}
    try:
        document = parse_yaml(text, name)[0] if name != DAMAGED else text
    except ConfigError:
        return {name: one_line(text)}
    return flatten(document if isinstance(document, dict) else {name: document})


def flatten(mapping: dict[str, Any], at: str = "") -> dict[str, Any]:
    """The dotted keys of a mapping of mappings."""
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        flat |= flatten(value, f"{at}{key}.") if isinstance(value, dict) and value else {f"{at}{key}": value}
    return flat
