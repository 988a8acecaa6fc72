"""From YAML files to typed models: documents that know their lines, dotted keys, strict validation."""

import json
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from runner.errors import ConfigError
from runner.explain import OptionError, explain, first_of
from runner.masking import holds_secret, mask_text, secret_values
from runner.strict_yaml import is_secret, one_line, parse_yaml, show

MAX_BYTES = 1_000_000
_STREAMS = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")
"""What a shell calls its pipes; another pipe may have nobody at its other end, and be waited for in vain."""


class Options(BaseModel):
    """Frozen, strict about unknown keys, with a docstring under each field."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Document:
    """A YAML file as plain values, and where each dotted key came from."""

    mapping: dict[str, Any]
    lines: dict[str, int]
    """Dotted key -> line in the file; items of lists count from 0, as in `sweep.list.0.method.gamma`."""

    path: Path
    overrides: dict[str, str] = field(default_factory=dict)
    """Dotted key -> the `KEY=VALUE` that set it."""

    def where(self, key: str) -> str:
        """`FILE:LINE` of a dotted key or its nearest ancestor, or the `override KEY=VALUE` that made it."""
        for ancestor in _ancestors(key):
            if ancestor in self.overrides:
                return f"override {self.overrides[ancestor]}"
            if ancestor in self.lines:
                return f"{self.path}:{self.lines[ancestor]}"
            for overridden, text in self.overrides.items():
                if overridden.startswith(f"{ancestor}."):
                    return f"override {text}"
        return str(self.path)

    def locate(self, error: OptionError, origins: Mapping[str, str] | None = None) -> ConfigError:
        """The error with its place.

        `origins` maps a dotted key of a trial to the key of this file that set it, as a sweep does.
        """
        for ancestor in _ancestors(error.key):
            if origins and ancestor in origins:
                return ConfigError(f"{self.where(origins[ancestor])}: {error} (set by {origins[ancestor]})")
        return ConfigError(f"{self.where(error.key)}: {error}")


def load_yaml(path: str | Path) -> Document:
    """The mapping in a YAML file.

    Raises ConfigError, one line with file and line, when the file is missing, empty, over 1 MB, not UTF-8,
    not YAML or not a mapping, and for all that strict_yaml refuses.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or str(path).startswith(_STREAMS)):
            raise ConfigError(f"{path}: is no regular file")
        data = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"config not found: {path}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: is {len(data)} bytes long; a config has at most {MAX_BYTES}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: is not UTF-8; save it as UTF-8") from None
    mapping, lines = parse_yaml(text, str(path))
    if not isinstance(mapping, dict):
        kind = "empty" if mapping is None else "a list" if isinstance(mapping, list) else "a single value"
        raise ConfigError(f"{path}: is {kind}; a config is a mapping of keys, such as `name: first-try`")
    return Document(mapping, lines, path)


def override(document: Document, texts: Iterable[str]) -> Document:
    """The document with each `KEY=VALUE` set: KEY may be dotted, VALUE is YAML under the same rules.

    Raises ConfigError that names the override when it has no `=` or no value, or leads through a plain value.
    """
    mapping, lines, overrides = document.mapping, document.lines, dict(document.overrides)
    for text in texts:
        key, equals, value = text.partition("=")
        shown = f"{one_line(key)}=..." if is_secret(key) else one_line(mask_text(text))
        if not equals:
            raise ConfigError(f"override {shown}: has no `=`; write KEY=VALUE, such as train.seed=1")
        if not key.isprintable() or " " in key or not all(key.split(".")):
            raise ConfigError(f"override {shown}: {show(key)} is not a dotted key; write it as in train.seed=1")
        if not value.strip():
            raise ConfigError(f"override {shown}: has no value; write {key}=null for none, where that is allowed")
        try:
            mapping = set_key(mapping, key, parse_yaml(value, f"override {shown}", numbered=False, key=key)[0])
        except OptionError as error:
            raise ConfigError(f"override {shown}: {error}") from None
        lines = {other: line for other, line in lines.items() if not other.startswith(f"{key}.")}
        overrides[key] = shown
    return Document(mapping, lines, document.path, overrides)


def refuse_secrets(document: Document) -> None:
    """Raise ConfigError for the first string that is a secret; configs are written into every run folder."""
    values = secret_values()
    for key, text in _strings(document.mapping):
        if holds_secret(text, values):
            problem = "holds a secret; configs hold none: use the environment or ~/.netrc"
            raise document.locate(OptionError(key, problem))


def _strings(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every string in plain values, with its dotted key."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict | list):
        for name, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _strings(item, f"{key}.{name}" if key else str(name))


OF_KEYS = ("sweep.grid", "sweep.zip", "sweep.random.parameters", "sweep.search.parameters")
"""Mappings whose keys are dotted keys themselves."""


def set_key(mapping: dict[str, Any], key: str, value: Any, at: str = "") -> dict[str, Any]:
    """A copy with a dotted key set; only the mappings on its path are copied, the others are shared.

    `at` is the dotted key of the mapping itself. Raises OptionError when the path leads through what
    is no mapping.
    """
    # A key may hold dots itself: `sweep.grid.method.gamma` is the key `method.gamma` of `sweep.grid`.
    head, dot, rest = key.partition(".")
    if not dot or key in mapping:
        return {**mapping, key: value}
    inner = mapping.get(head)
    place = f"{at}.{head}" if at else head
    if inner is None:
        inner = {}
    if not isinstance(inner, dict):
        raise OptionError(place, f"{show(inner)} is not a mapping, so {show(rest)} cannot be set in it")
    if place in OF_KEYS:
        return {**mapping, head: {**inner, rest: value}}
    return {**mapping, head: set_key(inner, rest, value, place)}


def get_key(mapping: dict[str, Any], key: str, default: Any = None) -> Any:
    """The value at a dotted key, or the default."""
    value: Any = mapping
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            return default
        value = value[part]
    return value


def canonical(value: Any) -> str:
    """Plain values as JSON with sorted keys and 1.0 written as 1: equal texts mean equal configs."""
    return _encode(_with_whole_numbers(value))


Model = TypeVar("Model", bound=BaseModel)


def build(model: type[Model], mapping: Any, key: str = "") -> Model:
    """The model that a plain mapping at a dotted key describes; raises OptionError for the first misfit."""
    return build_json(model, canonical(mapping), key)


def build_json(model: type[Model], text: str, key: str = "") -> Model:
    """The same for a mapping that is canonical JSON already."""
    try:
        # Strict: "1e-3" is no number and "no" no boolean. From JSON, lists still become tuples.
        return model.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise first_of(explain(error, model, json.loads(text), key)) from None


_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


def _with_whole_numbers(value: Any) -> Any:
    if type(value) is float:
        return int(value) if abs(value) < 2**53 and value.is_integer() else value
    if type(value) is dict:
        return {key: _with_whole_numbers(item) for key, item in value.items()}
    if type(value) is list:
        return [_with_whole_numbers(item) for item in value]
    return value


def _ancestors(key: str) -> Iterator[str]:
    # What evaluate.probes[knn] is about stands at evaluate.probes.
    key = key.partition("[")[0]
    while key:
        yield key
        key = key.rpartition(".")[0]
