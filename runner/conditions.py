"""Which trials are meant: conditions on settings and state, such as `gamma>0.5`, `encoder=res*` or `state!=failed`."""

import operator
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from runner.errors import ConfigError
from runner.strict_yaml import parse_yaml
from runner.tables import format_value, same_text

SIGNS = "=!<>"
_CONDITION = re.compile(r"\s*(!?)([^=!<>\s]+)\s*(!=|>=|<=|==|=|>|<)\s*(.*?)\s*", re.DOTALL)
_COMPARE = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}


@dataclass(frozen=True)
class Condition:
    """A key, how it is compared, and with what; = and != take several values, of which one has to fit."""

    text: str
    key: str
    """Dotted, or the end of a dotted key."""

    sign: str
    values: list[Any]

    def holds(self, found: dict[str, Any]) -> bool:
        """Whether a trial meets it; `found` has the trial's one value, or none where it has no such key."""
        if self.sign in _COMPARE:
            return any(_is_number(value) and _COMPARE[self.sign](value, self.values[0]) for value in found.values())
        return any(_fits(value, wanted) for value in found.values() for wanted in self.values) == (self.sign == "=")


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
    values = parse_yaml(f"[{','.join(pieces)}]", told, numbered=False)[0]
    if not isinstance(values, list) or not values:
        raise ConfigError(f"{told}: has no value")
    if sign in _COMPARE and not (len(values) == 1 and _is_number(values[0])):
        raise ConfigError(f"{told}: {sign} needs one number")
    return Condition(text, key, "!=" if no else "=" if sign == "==" else sign, values)


def _fits(setting: Any, wanted: Any) -> bool:
    """0.1 is 1e-1, and `res*` is resnet18."""
    is_pattern = isinstance(wanted, str) and fnmatchcase(format_value(setting), wanted)
    return is_pattern or same_text(setting) == same_text(wanted)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
