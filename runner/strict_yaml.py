"""YAML as plain values under stricter rules than YAML 1.1, and back.

YAML 1.1 reads `1e-4` as a string, `no` as false, `010` as eight and `12:30:00` as 45000. Here decimal numbers
are numbers, true and false are the only booleans, null and ~ are null, and everything else is a string. Tags,
anchors, duplicate keys, second documents and values that look like secrets are errors.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from runner.errors import ConfigError

MAX_DEPTH = 20

_INTEGER = re.compile(r"[-+]?[0-9]+(_[0-9]{3})*")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(_[0-9]{3})*(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_PLAIN = re.compile(r"[\w./~+][\w./~+-]*")
"""Strings that need no quotes anywhere, if they mean nothing else."""

_WORDS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_NULLS = {"", "~", "null", "Null", "NULL"}
_SECRET = re.compile(
    r"(^|[^a-z])(api|auth)?(key|token|secret|passw(or)?d|passphrase|credentials?)([^a-z]|$)",
)
# In C where PyYAML was built with it: five times as fast, and the same words.
_Events: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Writer: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def parse_yaml(
    text: str, source: str, *, numbered: bool = True, key: str = "", typed: bool = True
) -> tuple[Any, dict[str, int]]:
    """The plain value of one YAML document, and the line of every dotted key in it.

    `source` begins every error, followed by the line if `numbered`; `key` is the dotted key of the value itself.
    Unless `typed`, scalars stay the text that they are written as. Raises ConfigError for what is not YAML and for all
    that the rules above refuse.
    """
    return _Reader(source, numbered, typed).read(text, key)


def parse_scalar(text: str) -> str | int | float | bool | None:
    """What an unquoted scalar means."""
    if text in _WORDS:
        return _WORDS[text]
    if text in _NULLS:
        return None
    # Longer ones are no numbers that anybody typed, and Python refuses to convert huge ones.
    if len(text) <= 64 and _INTEGER.fullmatch(text):
        return int(text)
    if len(text) <= 64 and _FLOAT.fullmatch(text):
        return float(text)
    return text


def dump_yaml(mapping: Mapping[str, Any]) -> str:
    """YAML that the rules above and any YAML 1.1 reader understand alike."""
    return yaml.dump(dict(mapping), Dumper=_Dumper, sort_keys=False, width=110)


def is_secret(key: str) -> bool:
    """Whether the last name in a dotted key has a word such as key, token or password."""
    name = re.sub(r"(\.[0-9]+)+$", "", key).rpartition(".")[2]
    return bool(_SECRET.search(re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()))


def is_number(value: Any) -> bool:
    """Whether a plain value is one; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def show(value: Any) -> str:
    """A value in YAML's flow style, on one line of at most 80 characters."""
    text = one_line(json.dumps(value, ensure_ascii=False))
    return f'{text[:75]} ..."' if isinstance(value, str) and text.endswith(" ...") else text


def flow(value: Any) -> str:
    """A value as one would type it in YAML, on one line: null, [32, 64], {name: scl, gamma: 1.0}."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{flow(key)}: {flow(item)}' for key, item in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(flow, value))}]"
    if isinstance(value, str) and _PLAIN.fullmatch(value) and parse_scalar(value) == value:
        return value
    return repr(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def one_line(text: str) -> str:
    """Text with control characters escaped, cut at 80 characters."""
    text = "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text)
    return text if len(text) <= 80 else f"{text[:76]} ..."


class _Reader:
    """Builds values from the parser's events: nothing but strings, numbers, lists and mappings can appear."""

    def __init__(self, source: str, numbered: bool, typed: bool) -> None:
        self.source = source
        self.numbered = numbered
        self.typed = typed
        self.lines: dict[str, int] = {}

    def read(self, text: str, key: str) -> tuple[Any, dict[str, int]]:
        if bad := yaml.reader.Reader.NON_PRINTABLE.search(text):
            line = text.count("\n", 0, bad.start()) + 1
            raise self.error(line, f"not YAML: control character U+{ord(bad.group()):04X}")
        value, documents = None, 0
        try:
            events = yaml.parse(text, Loader=_Events)
            for event in events:
                if isinstance(event, yaml.DocumentStartEvent):
                    documents += 1
                    if documents > 1:
                        raise self.error(_line(event), "a second document starts; a config is one document")
                    value = self.value(next(events), events, key, 0)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = f" at column {mark.column + 1}" if mark else ""
            problem = (
                "a tab is no indentation; use spaces" if mark and _is_tab(text, mark) else f"{error.problem}{place}"
            )
            raise self.error(mark.line + 1 if mark else 1, f"not YAML: {problem}") from None
        return value, self.lines

    def value(self, event: yaml.Event, events: Iterator[yaml.Event], key: str, depth: int) -> Any:
        self.refuse_extras(event, key)
        if depth > MAX_DEPTH:
            raise self.error(_line(event), f"nested more than {MAX_DEPTH} levels deep", key)
        if isinstance(event, yaml.MappingStartEvent):
            return self.mapping(events, key, depth)
        if isinstance(event, yaml.SequenceStartEvent):
            return self.sequence(events, key, depth)
        assert isinstance(event, yaml.ScalarEvent)
        plain = event.style in (None, "")
        value = parse_scalar(event.value) if plain and self.typed else event.value
        if isinstance(value, str) and value and is_secret(key):
            raise self.error(
                _line(event), "looks like a secret; configs hold none: use the environment or ~/.netrc", key
            )
        return value

    def mapping(self, events: Iterator[yaml.Event], key: str, depth: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            self.refuse_extras(event, key)
            if not isinstance(event, yaml.ScalarEvent) or not event.value or not event.value.isprintable():
                raise self.error(_line(event), "a key must be a string of printable characters", key)
            dotted = f"{key}.{event.value}" if key else event.value
            if event.value in values:
                first = f"; it is on line {self.lines[dotted]} already" if self.numbered else ""
                raise self.error(_line(event), f"duplicate key{first}", dotted)
            self.lines[dotted] = _line(event)
            values[event.value] = self.value(next(events), events, dotted, depth + 1)
        return values

    def sequence(self, events: Iterator[yaml.Event], key: str, depth: int) -> list[Any]:
        values: list[Any] = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            dotted = f"{key}.{len(values)}"
            self.lines[dotted] = _line(event)
            values.append(self.value(event, events, dotted, depth + 1))
        return values

    def refuse_extras(self, event: yaml.Event, key: str) -> None:
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise self.error(_line(event), "anchors (&) and aliases (*) are not allowed; write the value out", key)
        if (tag := getattr(event, "tag", None)) is not None:
            raise self.error(_line(event), f"tag {show(tag)} is not allowed; write a plain value", key)

    def error(self, line: int, problem: str, key: str = "") -> ConfigError:
        place = f"{self.source}:{line}" if self.numbered else self.source
        return ConfigError(f"{place}: {one_line(key)}: {problem}" if key else f"{place}: {problem}")


class _Dumper(_Writer):  # type: ignore[misc]
    """Quotes whatever YAML 1.1 or the rules above would not read back as the same string."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _tag, _pattern in {"int": _INTEGER, "float": _FLOAT}.items():
    _whole_text = re.compile(f"(?:{_pattern.pattern})$")
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _whole_text, list("-+.0123456789"))


def _is_tab(text: str, mark: yaml.Mark) -> bool:
    """Whether a tab is what the parser stumbles over: the one at the mark, or one that its line begins with."""
    line = [*text.splitlines(), ""][mark.line]
    return "\t" in line[: len(line) - len(line.lstrip())] or line[mark.column : mark.column + 1] == "\t"


def _line(event: yaml.Event) -> int:
    assert event.start_mark is not None
    return event.start_mark.line + 1
