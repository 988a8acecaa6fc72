"""Configs as YAML, one top-level group at a time: trials of a sweep share most groups word by word.

Dumping or parsing each distinct group once is what makes thousands of configs take no longer than a few.
"""

import re
from typing import Any

from pydantic import BaseModel

from runner.config import Trial
from runner.strict_yaml import dump_yaml

_TOP_LEVEL_KEY = re.compile(r"^([A-Za-z_][\w.-]*):", re.MULTILINE)


def split_text(text: str) -> dict[str, str]:
    """The text of a YAML mapping by top-level key."""
    starts = list(_TOP_LEVEL_KEY.finditer(text))
    ends = [*(start.start() for start in starts), len(text)][1:]
    return {start[1]: text[start.start() : end] for start, end in zip(starts, ends, strict=False)}


class GroupTexts:
    """The YAML of many trials, each distinct group dumped once; of trials that stay alive meanwhile."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, object], str] = {}

    def of(self, trial: Trial) -> dict[str, str]:
        """What `dump_yaml` makes of the dumped trial, by top-level key."""
        texts = {}
        for key in Trial.model_fields:
            value = getattr(trial, key)
            place = (key, id(value) if isinstance(value, BaseModel) else value)
            if place not in self._seen:
                self._seen[place] = dump_yaml({key: _plain(value)})
            texts[key] = self._seen[place]
        return texts


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value
