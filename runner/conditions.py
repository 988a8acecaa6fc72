"""Which trials are meant: conditions on settings and state, such as `gamma>0.5`, `encoder=res*` or `state!=failed`."""

import operator
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from runner.errors import ConfigError
from runner.strict_yaml import is_number, parse_yaml
from runner.tables import format_value, same_text

SIGNS = "=!<>"
_CONDITION = re.compile(r"\s*(!?)([^=!<>\s]+)\s*(!=|>=|<=|==|=|>|<)\s*(.*?)\s*", re.DOTALL)
_COMPARE = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}


@dataclass(frozen=True)
class Wanted:
    """What a setting is compared with."""

    value: Any
    text: Any
    """The same with its scalars as they are written: a string may look like a number, as the ids of some trials do."""

    def fits(self, setting: Any) -> bool:
        """0.1 is 1e-1, and `res*` is resnet18."""
        pattern = self.text if isinstance(setting, str) else self.value
        is_pattern = isinstance(pattern, str) and fnmatchcase(format_value(setting), pattern)
        return is_pattern or same_text(setting) in (same_text(self.value), same_text(self.text))


@dataclass(frozen=True)
class Condition:
    """A key, how it is compared, and with what; = and != take several values, of which one has to fit."""

    text: str
    key: str
    """Dotted, or the end of a dotted key."""

    sign: str
    values: list[Wanted]

    def holds(self, found: dict[str, Any]) -> bool:
        """Whether a trial meets it; `found` has the trial's one value, or none where it has no such key."""
        if self.sign in _COMPARE:
            bound = self.values[0].value
            return any(is_number(value) and _COMPARE[self.sign](value, bound) for value in found.values())
        return any(wanted.fits(value) for value in found.values() for wanted in self.values) == (self.sign == "=")


def parse_condition(text: str, option: str = "") -> Condition:
    """`KEY=VALUE`, with !=, >, >=, < or <= too, or `!KEY=VALUE`; a comma between values means one of these.

    Values are as in YAML, and * and ? of a word stand for anything. Raises: ConfigError, which begins with the option.
    """
    match = _CONDITION.fullmatch(text)
    told = f"{option} {text}".strip()
    if match is None or (match[1] and match[3] != "="):
        raise ConfigError(f"{told}: must be KEY=VALUE or !KEY=VALUE, or with !=, >, >=, < or <= between them")
    no, key, sign, value = match.groups()
    # What begins with * is no reference to anything here.
    pieces = [f"'{piece}'" if piece.strip().startswith("*") else piece for piece in value.split(",")]
    document = f"[{','.join(pieces)}]"
    values = parse_yaml(document, told, numbered=False)[0]
    if not isinstance(values, list) or not values:
        raise ConfigError(f"{told}: has no value")
    if sign in _COMPARE and not (len(values) == 1 and is_number(values[0])):
        raise ConfigError(f"{told}: {sign} needs one number")
    texts = parse_yaml(document, told, numbered=False, typed=False)[0]
    wanted = [Wanted(*pair) for pair in zip(values, texts, strict=True)]
    return Condition(text, key, "!=" if no else "=" if sign == "==" else sign, wanted)
