"""A copy of the package to be edited: the checkout of somebody who goes on working while trials run."""

import os
import shutil
from pathlib import Path

from runner.code_snapshot import PACKAGE, SAMPLES

METHOD = "mine"
"""A method of the user's own, in no commit: SCL under another name."""


def make_checkout(folder: Path) -> Path:
    """The copy, with METHOD in it; put it on PYTHONPATH."""
    shutil.copytree(PACKAGE, folder / "runner", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / SAMPLES).symlink_to(PACKAGE.parent / SAMPLES)
    shutil.copy(folder / "runner" / "methods" / "scl.py", folder / "runner" / "methods" / f"{METHOD}.py")
    return folder


def double_the_loss(checkout: Path) -> None:
    """An edit of METHOD that changes what is trained."""
    file = checkout / "runner" / "methods" / f"{METHOD}.py"
    text = file.read_text()
    assert text.count("return loss, {") == 1
    file.write_text(text.replace("return loss, {", "return 2 * loss, {"))


def break_the_package(checkout: Path) -> None:
    """Nobody can import it any more."""
    (checkout / "runner" / "__init__.py").write_text('raise SystemExit("the checkout was imported")\n')


def environment_of(checkout: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(checkout)}
