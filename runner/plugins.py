"""Where plug-ins come from: files of this package, and modules that other installed packages offer as entry points.

A package adds to a family by a line of its pyproject.toml, which is read without importing anything of it:

    [project.entry-points."runner.methods"]
    my_method = "my_lab.my_method"
"""

import ast
import hashlib
import importlib.util
import pkgutil
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

OURS = "runner"
FAMILIES = ("methods", "encoders", "data", "schedules", "evaluation", "mirrors")
"""Folders of this package with a plug-in in each file."""


@dataclass(frozen=True)
class PlugIn:
    """One module that a name in an experiment file stands for."""

    name: str
    module: str
    """Dotted."""

    package: str = OURS
    """The installed package that it comes with."""

    version: str = ""
    """Of that package, unless it is this one."""

    def __str__(self) -> str:
        return f"{self.package} {self.version}".strip()


def find(family: str) -> dict[str, list[PlugIn]]:
    """The plug-ins of a family by name, sorted; two of one name are a clash. Nothing is imported."""
    found: dict[str, list[PlugIn]] = {}
    for plug_in in [*_own(family), *_offered(family, tuple(sys.path))]:
        found.setdefault(plug_in.name, []).append(plug_in)
    return dict(sorted(found.items()))


def packages() -> dict[str, str]:
    """Version by name of each other package that offers anything to this one."""
    from importlib.metadata import entry_points

    points = entry_points()
    groups = [points.select(group=group) for group in points.groups if group.startswith(f"{OURS}.")]
    return {point.dist.name: point.dist.version for group in groups for point in group if point.dist is not None}


def source_of(plug_in: PlugIn) -> Path | None:
    """The file of a plug-in; None where it is no plain file. Nothing is imported."""
    top, *rest = plug_in.module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None:
        return None
    places = [Path(folder, *rest) for folder in spec.submodule_search_locations or ()]
    files = [file for place in places for file in (place.with_suffix(".py"), place / "__init__.py")]
    alone = [] if rest or not spec.origin else [Path(spec.origin)]
    return next((file for file in [*alone, *files] if file.is_file()), None)


def summary_of(plug_in: PlugIn) -> str:
    """The first line of the docstring of a plug-in, read from its file."""
    path = source_of(plug_in)
    try:
        text = ast.get_docstring(ast.parse(path.read_bytes())) if path else None
    except (OSError, SyntaxError, ValueError) as error:
        return f"cannot be read: {error}"
    return (text or "").partition("\n")[0]


@cache
def digest_of(plug_in: PlugIn) -> str:
    """12 hex digits of the source of the whole package around a plug-in, which change with every edit of it."""
    spec = importlib.util.find_spec(plug_in.module.partition(".")[0])
    folders = [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []
    # A package may lie in several folders, or be a single file.
    files = [(path.relative_to(folder), path) for folder in folders for path in sorted(folder.rglob("*.py"))]
    if spec and spec.origin and not folders:
        files = [(Path(Path(spec.origin).name), Path(spec.origin))]
    digest = hashlib.sha256()
    for name, path in files:
        digest.update(str(name).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def _own(family: str) -> list[PlugIn]:
    spec = importlib.util.find_spec(f"{OURS}.{family}")
    assert spec is not None, family
    names = [module.name for module in pkgutil.iter_modules(spec.submodule_search_locations)]
    return [PlugIn(name, f"{OURS}.{family}.{name}") for name in names if name[0] != "_"]


@cache
def _offered(family: str, path: tuple[str, ...]) -> tuple[PlugIn, ...]:
    """By the packages on `path`, which is sys.path: what is installed later is not seen by this process."""
    from importlib.metadata import entry_points

    return tuple(
        PlugIn(point.name, point.value, point.dist.name, point.dist.version)
        for point in entry_points(group=f"{OURS}.{family}")
        if point.dist is not None
    )
