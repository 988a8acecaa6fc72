"""`runner list`: what there is to choose from, and what the options of one plug-in are."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from runner import named, plugins
from runner.errors import ConfigError
from runner.explain import OptionError, did_you_mean
from runner.strict_yaml import flow, show

SHIPPED = Path(__file__).parent.parent
FOLDERS = {"profiles": ("slurm", "*.yaml"), "experiments": ("experiments", "**/*.yaml")}
"""What is files of YAML, and no plug-ins: where, and which."""

KINDS = [*plugins.FAMILIES, *FOLDERS]


@dataclass(frozen=True)
class Entry:
    """One thing to choose."""

    name: str
    summary: str
    source: str = ""
    """The package that it comes from, unless it is this one."""

    def __str__(self) -> str:
        return f"{self.summary} [{self.source}]" if self.source else self.summary


@dataclass(frozen=True)
class Option:
    """One option of a plug-in."""

    name: str
    kind: str
    """What it may be, in words."""

    default: str
    """As in YAML; empty where it must be given."""

    text: str


def entries(kind: str) -> list[Entry]:
    """What there is of a kind, by name; imports nothing of it. Raises: ConfigError for another kind."""
    if kind not in KINDS:
        raise ConfigError(f"list: {show(kind)} is not allowed; {did_you_mean(kind, KINDS)}")
    return list(_files(kind) if kind in FOLDERS else _plug_ins(kind))


def options(family: str, name: str) -> list[Option]:
    """The options of a plug-in, which is imported. Raises: ConfigError for a family or a name that there is not."""
    if family not in named.FAMILIES:
        raise ConfigError(f"list: {show(family)} have no options; {did_you_mean(family, named.FAMILIES)}")
    try:
        config = named.load(family, name).Config
    except OptionError as error:
        raise ConfigError(f"list {family}: {error.problem}") from None
    schema = config.model_json_schema()
    return [
        Option(
            key,
            describe(value, schema.get("$defs", {})),
            "" if key in schema.get("required", ()) else flow(value.get("default")),
            " ".join(value.get("description", "").split()),
        )
        for key, value in schema.get("properties", {}).items()
    ]


def describe(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """`number (at least 0)`, `"a" or "b"`, `list of integer`: a JSON schema in words."""
    if "$ref" in schema:
        return describe(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if branches := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(describe(branch, definitions) for branch in branches))
    if "enum" in schema or "const" in schema:
        return " or ".join(flow(value) for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        inner: dict[str, Any] = schema.get("items") or next(iter(schema.get("prefixItems", [])), {})
        return f"list of {describe(inner, definitions)}" if inner else "list"
    kind = {"object": "mapping", "boolean": "true or false"}.get(schema.get("type", ""), schema.get("type", "any"))
    words = {
        "minimum": "at least",
        "exclusiveMinimum": "above",
        "maximum": "at most",
        "exclusiveMaximum": "below",
    }
    bounds = ", ".join(f"{word} {flow(schema[key])}" for key, word in words.items() if key in schema)
    return f"{kind} ({bounds})" if bounds else kind


def options_table(options: list[Option]) -> Table:
    """A row for each option."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for head in ("option", "what", "default", "text"):
        table.add_column(head, overflow="fold")
    for one in options:
        table.add_row(one.name, one.kind, one.default or "must be given", one.text)
    return table


def find_files(kind: str, here: Path) -> dict[str, Path]:
    """Profiles by name, or experiments by path: those of `here`, then those beside the package."""
    folder, pattern = FOLDERS[kind]
    found: dict[str, Path] = {}
    for base in dict.fromkeys([here, SHIPPED]):
        for path in sorted((base / folder).glob(pattern)):
            name = path.stem if kind == "profiles" else str(path.relative_to(here) if base == here else path)
            found.setdefault(name, path)
    return found


def _plug_ins(family: str) -> Iterator[Entry]:
    for name, found in plugins.find(family).items():
        others = ", ".join(str(one) for one in found if one.package != plugins.OURS)
        clash = f"of {len(found)} packages: none can be used" if len(found) > 1 else ""
        yield Entry(name, clash or plugins.summary_of(found[0]), others)


def _files(kind: str) -> Iterator[Entry]:
    for name, path in find_files(kind, Path.cwd()).items():
        try:
            first = path.read_text().partition("\n")[0]
        except (OSError, UnicodeDecodeError) as error:
            first = f"# cannot be read: {error}"
        yield Entry(name, first.removeprefix("#").strip() if first.startswith("#") else "")
