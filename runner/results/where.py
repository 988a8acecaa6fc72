"""Which trials a table is of: conditions on settings and state, such as `method.gamma>0.5` or `state!=failed`."""

import operator
import re
from dataclasses import dataclass
from typing import Any

from runner.errors import ConfigError
from runner.strict_yaml import parse_yaml
from runner.tables import same_text

_CONDITION = re.compile(r"\s*([^=!<>\s]+)\s*(!=|>=|<=|==|=|>|<)\s*(.*?)\s*", re.DOTALL)
_COMPARE = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}


@dataclass(frozen=True)
class Condition:
    """A key, how it is compared, and with what; = and != take several values."""

    text: str
    key: str
    sign: str
    values: list[Any]

    def holds(self, found: dict[str, Any]) -> bool:
        """Whether a trial meets it; `found` has the trial's one value, or none where it has no such key."""
        if self.sign in _COMPARE:
            return any(_is_number(value) and _COMPARE[self.sign](value, self.values[0]) for value in found.values())
        wanted = {same_text(value) for value in self.values}
        return any(same_text(value) in wanted for value in found.values()) == (self.sign == "=")


def parse_condition(text: str) -> Condition:
    """`KEY=VALUE`, with !=, >, >=, < or <= too; values as in YAML, and a comma between them means one of these.

    Raises: ConfigError.
    """
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise ConfigError(f"--where {text}: should be KEY=VALUE, or with !=, >, >=, < or <= between them")
    key, sign, value = match.groups()
    values = parse_yaml(f"[{value}]", f"--where {text}", numbered=False)[0]
    if not isinstance(values, list) or not values:
        raise ConfigError(f"--where {text}: has no value")
    if sign in _COMPARE and not (len(values) == 1 and _is_number(values[0])):
        raise ConfigError(f"--where {text}: {sign} needs one number")
    return Condition(text, key, "=" if sign == "==" else sign, values)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
