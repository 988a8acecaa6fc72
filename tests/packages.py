"""Packages of somebody else, installed by hand: a module for each plug-in, and the metadata that pip would write."""

import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from runner import named, plugins


def install(site: Path, package: str, plug_ins: Mapping[str, str], version: str = "0.1") -> None:
    """A package with modules by `family/name`, in a folder that is to be on sys.path."""
    module = package.replace("-", "_")
    groups: dict[str, list[str]] = {}
    (site / module).mkdir(parents=True)
    (site / module / "__init__.py").touch()
    for place, source in plug_ins.items():
        family, _, name = place.partition("/")
        (site / module / f"{name}.py").write_text(source)
        groups.setdefault(family, []).append(f"{name} = {module}.{name}")
    write_metadata(site, package, version, groups)


def write_metadata(site: Path, package: str, version: str, groups: Mapping[str, list[str]]) -> None:
    """What is left of a package once it is installed, editable or not."""
    folder = site / f"{package.replace('-', '_')}-{version}.dist-info"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    lines = [line for family, lines in groups.items() for line in (f"[runner.{family}]", *lines, "")]
    (folder / "entry_points.txt").write_text("\n".join(lines))


def install_project(root: Path) -> None:
    """As `pip install -e` would: what pyproject.toml says becomes metadata, beside the package."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    groups = {
        family.removeprefix("runner."): [f"{name} = {module}" for name, module in entries.items()]
        for family, entries in project["entry-points"].items()
    }
    write_metadata(root, project["name"], project["version"], groups)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder first on sys.path, of this process and of those it starts, until the test ends."""
    folder = tmp_path / "site"
    folder.mkdir()
    with lent(folder, monkeypatch):
        yield folder


@contextmanager
def lent(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The same for a folder that is there."""
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=":")
    named.load.cache_clear()
    yield
    named.load.cache_clear()
    plugins.digest_of.cache_clear()
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(folder)):
            del sys.modules[name]
