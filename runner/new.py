"""`runner new`: files of a plug-in or a profile that work as they are, in this checkout or in one's own package."""

import keyword
import os
import re
import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner import plugins
from runner.config import NAME_PATTERN
from runner.errors import ConfigError
from runner.files import replacing
from runner.strict_yaml import show

PACKAGE = Path(__file__).parent
TEMPLATES = PACKAGE / "templates"


@dataclass(frozen=True)
class Kind:
    """What can be written anew."""

    family: str
    group: str
    """The key of an experiment file that selects one."""

    check: str
    """The function of runner.contract."""


LONGEST_NAME = 64 - len("-debug")
"""Letters; what stands beside it is called so, and is the name of an experiment."""

KINDS = {
    "method": Kind("methods", "method", "check_method"),
    "dataset": Kind("data", "data", "check_dataset"),
    "encoder": Kind("encoders", "encoder", "check_encoder"),
    "schedule": Kind("schedules", "schedule", "check_schedule"),
}


@dataclass(frozen=True)
class Place:
    """Where the files of a plug-in go."""

    root: Path
    """Of the checkout or project."""

    folder: Path
    """Of the plug-in's own file."""

    module: str
    """What that folder is called in an import."""

    is_ours: bool
    """Whether it is this package."""


@dataclass(frozen=True)
class Made:
    """What was written, and what comes next."""

    written: list[Path]
    changed: list[Path]
    following: list[str]
    """Commands."""

    package: Path | None = None
    """The folder of the package of one's own that it is in."""


def make(kind: str, name: str, into: Path | None, here: Path) -> Made:
    """Write the files of a new plug-in or profile, and nothing over what is there.

    `into` is the folder of a package, or of profiles; None in a checkout of this project around `here`. Raises:
    ConfigError for a name that is taken or cannot be one, and for a place where nothing would be found.
    """
    if kind == "profile":
        return _make_profile(name, here / (into or "slurm"), here)
    if kind not in KINDS:
        raise ConfigError(f"new: {show(kind)} is not allowed; there is {', '.join([*KINDS, 'profile'])}")
    check_name(kind, name)
    place = find_place(KINDS[kind].family, into, here)
    files = plan_files(kind, name, place)
    _check_free(files)
    project = None if place.is_ours else place.root / "pyproject.toml"
    text = ""
    if project is not None:
        before = project.read_text() if project.exists() else render("pyproject.toml", place.module.split(".")[0])
        text = add_entry_point(before, KINDS[kind].family, name, f"{place.module}.{name}", str(project))
    _write(files)
    run = f"runner debug {_shown(place.root / 'experiments' / name / 'debug.yaml', here)}"
    if project is None:
        return Made([*files], [], [run])
    was_there = project.exists()
    with replacing(project) as file:
        file.write(text.encode())
    written = [*files] if was_there else [*files, project]
    install = f"pip install -e {_shown(place.root, here)}"
    return Made(written, [project] if was_there else [], [install, run], place.folder)


def check_name(kind: str, name: str) -> None:
    """Raise ConfigError for a name that is no name of a module, or is taken."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        problem = "must be a small letter, then small letters, digits and _, and no word of Python"
        raise ConfigError(f"new {kind}: {show(name)} is not allowed; {problem}")
    if len(name) > LONGEST_NAME:
        raise ConfigError(f"new {kind}: {show(name)} is not allowed; must be at most {LONGEST_NAME} letters")
    if taken := plugins.find(KINDS[kind].family).get(name):
        where = ", ".join(f"{one.module} of {one}" for one in taken)
        raise ConfigError(f"new {kind}: {show(name)} is not allowed; it is {where}")
    if re.search(rf"\b{class_name(name)}\b", (TEMPLATES / f"{_stem(kind)}.py").read_text()):
        raise ConfigError(f"new {kind}: {show(name)} is not allowed; {class_name(name)} is another class in its file")


def find_place(family: str, into: Path | None, here: Path) -> Place:
    """Where a plug-in of a family goes; raises ConfigError where it would not be found."""
    checkout = PACKAGE.parent
    if into is None:
        if not (here.resolve().is_relative_to(checkout) and (checkout / "experiments").is_dir()):
            problem = f"{here} is in no checkout of {plugins.OURS}"
            raise ConfigError(f"new: {problem}; give a package of your own, such as --into my_lab")
        return Place(checkout, PACKAGE / family, f"{plugins.OURS}.{family}", True)
    # Without the links and .. in it: its parents are where it really lies.
    folder = (here / into).resolve()
    root = next((up for up in folder.parents if (up / "pyproject.toml").is_file()), folder.parent)
    parts = folder.relative_to(root).parts
    parts = parts[1:] if parts[:1] == ("src",) else parts
    _check_place(into, folder, root, here.resolve(), bool(parts) and all(part.isidentifier() for part in parts))
    return Place(root, folder, ".".join(parts), False)


def _check_place(into: Path, folder: Path, root: Path, here: Path, is_package: bool) -> None:
    """Raise ConfigError where the files of a package would litter a place that is none."""
    checkout = PACKAGE.parent.resolve()
    if root == checkout:
        name = folder.name if folder.name.isidentifier() and folder != checkout else "my_lab"
        beside = os.path.relpath(checkout.parent / name / name, here)
        raise ConfigError(f"--into {into}: is in a checkout of runner; give a package beside it, such as {beside}")
    if not is_package:
        raise ConfigError(f"--into {into}: is no name of a package; give letters, digits and _, such as my_lab")
    project = root / "pyproject.toml"
    goes = f"pyproject.toml lies beside the package's folder and would go to {project}"
    if _has_files(folder) and not (folder / "__init__.py").exists():
        problem = "is there, not empty and no package, since it has no __init__.py"
        raise ConfigError(f"--into {into}: {problem}; give a new folder, such as my_lab ({goes})")
    if not project.exists() and root != here and _has_files(root):
        way = folder / folder.name
        raise ConfigError(f"--into {into}: {goes}, among other files; work in that folder, or give {way}")


def _has_files(folder: Path) -> bool:
    return folder.exists() and any(folder.iterdir())


def plan_files(kind: str, name: str, place: Place) -> dict[Path, str]:
    """The files of a new plug-in and what is in them; nothing is written."""
    group, family = KINDS[kind].group, KINDS[kind].family
    files = {place.folder / f"{name}.py": render(f"{_stem(kind)}.py", name)}
    if not place.is_ours and not (place.folder / "__init__.py").exists():
        files[place.folder / "__init__.py"] = f'"""Plug-ins of {plugins.OURS}; pyproject.toml names them."""\n'
    trial = re.sub(rf"(?m)^({group}: +).*", rf"\1{{name: {name}}}", render("debug.yaml", name))
    files[place.root / "experiments" / name / "debug.yaml"] = trial
    tests = place.root / "tests"
    if tests.is_dir() or not (place.root / "pyproject.toml").exists():
        folder = tests / family if place.is_ours and (tests / family).is_dir() else tests
        files[folder / f"test_{name}.py"] = render("test.py", name).replace("check_method", KINDS[kind].check)
    return files


def render(template: str, name: str) -> str:
    """The text of a template for a name."""
    text = (TEMPLATES / template).read_text()
    for placeholder, value in {"new_name": name, "new_package": name, "NewName": class_name(name)}.items():
        text = text.replace(placeholder, value)
    return text


def class_name(name: str) -> str:
    """`TwoViews` for two_views."""
    return "".join(part.capitalize() for part in name.split("_"))


def add_entry_point(text: str, family: str, name: str, module: str, file: str) -> str:
    """A pyproject.toml with one line more, at the end of which nothing else has changed.

    Raises: ConfigError where that is no way to say it, with what is to be said.
    """
    header, line = f'[project.entry-points."{plugins.OURS}.{family}"]', f'{name} = "{module}"'
    lines = text.splitlines()
    if header in lines:
        lines.insert(lines.index(header) + 1, line)
    else:
        lines += ["", header, line]
    changed = "\n".join(lines) + "\n"
    try:
        wanted = _with_entry(tomllib.loads(text), family, name, module)
        is_right = tomllib.loads(changed) == wanted and "entry-points" not in wanted["project"].get("dynamic", ())
    except (tomllib.TOMLDecodeError, AttributeError, TypeError, KeyError):
        is_right = False
    if not is_right:
        raise ConfigError(f"{file}: cannot be added to; write under {header} by hand: {line}")
    return changed


def _with_entry(project: Mapping[str, Any], family: str, name: str, module: str) -> dict[str, Any]:
    points = project["project"].get("entry-points", {})
    group = f"{plugins.OURS}.{family}"
    added = {**points, group: {**points.get(group, {}), name: module}}
    return {**project, "project": {**project["project"], "entry-points": added}}


def _make_profile(name: str, folder: Path, here: Path) -> Made:
    if not re.fullmatch(NAME_PATTERN, name):
        raise ConfigError(f"new profile: {show(name)} is not allowed; use letters, digits, . _ and -")
    path = folder / f"{name}.yaml"
    files = {path: render("profile.yaml", name)}
    _check_free(files)
    _write(files)
    return Made([path], [], [f"runner doctor --on {_shown(path, here)}"])


def _check_free(files: Mapping[Path, str]) -> None:
    if there := [path for path in files if path.exists()]:
        raise ConfigError(f"{there[0]}: is there already; nothing is overwritten")


def _write(files: Mapping[Path, str]) -> None:
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x") as file:
            file.write(text)


def _stem(kind: str) -> str:
    return "data" if kind == "dataset" else kind


def _shown(path: Path, here: Path) -> str:
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))
