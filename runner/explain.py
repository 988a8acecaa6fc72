"""What a model refuses, told in one line: the dotted key, the value, and what is allowed."""

import difflib
import re
from collections.abc import Iterable, Sequence
from types import NoneType
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from runner.errors import ConfigError
from runner.strict_yaml import show


class OptionError(ConfigError, ValueError):
    """A ConfigError about one dotted key; `Document.locate` adds the file and the line, or the override.

    A validator of a model may raise it with a key relative to the model.
    """

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(key, problem)
        self.key = key
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.key}: {self.problem}" if self.key else self.problem


MISSING = "is missing"
"""What is said of a key that must be there."""


def explain(error: ValidationError, annotation: Any, value: Any, key: str = "") -> list[OptionError]:
    """One OptionError for each dotted key that pydantic complained about, in its order.

    `annotation` is the model or type that refused `value`, `key` the dotted key of the value.
    """
    found: dict[tuple[str, ...], list[Any]] = {}
    for detail in error.errors(include_url=False):
        found.setdefault(_path(detail, value), []).append(detail)
    errors = []
    for path, details in found.items():
        raised = details[0].get("ctx", {}).get("error")
        if isinstance(raised, OptionError):
            errors.append(OptionError(".".join(filter(None, [key, *path, raised.key])), raised.problem))
        else:
            problem = _problem(details, value, path, annotation)
            errors.append(OptionError(".".join(filter(None, [key, *path])), problem))
    return errors


def first_of(errors: Sequence[OptionError]) -> OptionError:
    """The first of several errors, with the keys of the others."""
    first, *others = errors
    keys = {error.key: error.problem == MISSING for error in others if error.key != first.key}
    refused = [key for key, is_missing in keys.items() if not is_missing]
    missing = [key for key, is_missing in keys.items() if is_missing]
    also = [f"also {word}: {', '.join(some)}" for word, some in (("refused", refused), ("missing", missing)) if some]
    return OptionError(first.key, f"{first.problem} ({'; '.join(also)})") if also else first


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """`did you mean "x"?`, or the list of what there is."""
    names = sorted(names)
    close = difflib.get_close_matches(name, names, 1)
    return f'did you mean "{close[0]}"?' if close else f"there is {', '.join(names) or 'nothing'}"


def listed(words: Sequence[str]) -> str:
    """`a, b or c`."""
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def counted(count: int, noun: str) -> str:
    """`1 trial`, `2 trials`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


# pydantic's words are about Python; these are about YAML.
_NEEDS = {
    "bool_type": "true or false",
    "int_type": "a whole number",
    "float_type": "a number without quotes",
    "finite_number": "a finite number",
    "string_type": "a string (quote what looks like a number)",
    "model_type": "a mapping of keys",
    "dict_type": "a mapping of keys",
    "tuple_type": "a list",
    "list_type": "a list",
}

_NOT_FINITE = re.compile(r"[-+]?\.?(nan|inf|infinity)", re.IGNORECASE)


def _path(detail: Any, value: Any) -> tuple[str, ...]:
    """The keys of pydantic's location that are in the data; what follows them names a branch of a union."""
    path: list[str] = []
    for part in detail["loc"]:
        if isinstance(value, dict) and str(part) in value:
            value = value[str(part)]
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        elif detail["type"] == "missing" and part is detail["loc"][-1]:
            value = None
        else:
            break
        path.append(str(part))
    return tuple(path)


def _problem(details: Sequence[Any], value: Any, path: tuple[str, ...], annotation: Any) -> str:
    """What is wrong with the value at `path`, and what is allowed there."""
    if details[0]["type"] == "missing":
        return MISSING
    if details[0]["type"] == "extra_forbidden":
        return f"unknown key; {did_you_mean(path[-1], _keys(annotation, path[:-1]))}"
    for part in path:
        value = value[int(part)] if isinstance(value, list) else value[part]
    needs = []
    for detail in details:
        if detail["type"] == "value_error":
            text = str(detail["ctx"]["error"])
            return text if isinstance(value, dict) else f"{show(value)} is not allowed; {text}"
        if detail["type"] == "too_short":
            least = detail["ctx"]["min_length"]
            return (
                f"{show(value)} is not allowed; must have at least {'one entry' if least == 1 else f'{least} entries'}"
            )
        if detail["type"] == "float_type" and isinstance(value, str) and _NOT_FINITE.fullmatch(value):
            needs.append(_NEEDS["finite_number"])
        else:
            needs.append(_NEEDS.get(detail["type"]) or _in_yaml_words(detail["msg"]))
    return f"{show(value)} is not allowed; must be {listed(list(dict.fromkeys(needs)))}"


def _in_yaml_words(text: str) -> str:
    text = text.removeprefix("Input should be ").replace("'", '"')
    return text.replace("greater than or equal to", "at least").replace("less than or equal to", "at most")


def _keys(annotation: Any, path: tuple[str, ...]) -> list[str]:
    """The keys of the model that stands at `path` below an annotation."""
    for part in path:
        annotation = _below(annotation, part)
    return list(_fields(annotation))


def _below(annotation: Any, part: str) -> Any:
    if fields := _fields(annotation):
        return fields.get(part)
    arguments = get_args(_without_none(annotation)) or (None,)
    return arguments[-1] if get_origin(_without_none(annotation)) is dict else arguments[0]


def _fields(annotation: Any) -> dict[str, Any]:
    model = _without_none(annotation)
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return {}
    return {field.alias or name: field.annotation for name, field in model.model_fields.items()}


def _without_none(annotation: Any) -> Any:
    """`X | None` as X."""
    arguments = get_args(annotation)
    if NoneType not in arguments:
        return annotation
    return next(argument for argument in arguments if argument is not NoneType)
