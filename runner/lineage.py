"""Which checkpoints of a trial count, and the newest of them that can be trusted."""

import hashlib
import os
import re
import time

from runner.attempt import read_parents
from runner.errors import CheckpointError
from runner.evidence import told_saved
from runner.manifest import check_own, is_flaw, read_manifest
from runner.rundir import RunDir

NAME = re.compile(r"step_(\d{8})\.(\d{5,})")
PAUSES_SECONDS = (1.0, 2.0, 4.0)
"""A file server that takes over from another answers again within seconds."""


def name_of(step: int, attempt: int) -> str:
    """The name of the folder that an attempt saves a step to."""
    return f"step_{step:08d}.{attempt:05d}"


def list_names(run: RunDir) -> list[str]:
    """All checkpoints that were committed, by step and attempt."""
    if not run.checkpoints.is_dir():
        return []
    return sorted((name for name in os.listdir(run.checkpoints) if NAME.fullmatch(name)), key=order_of)


def order_of(name: str) -> tuple[int, int]:
    """(step, attempt) of a checkpoint."""
    match = NAME.fullmatch(name)
    assert match is not None, name
    return int(match[1]), int(match[2])


def follow(names: list[str], parents: dict[int, str | None]) -> list[str]:
    """The checkpoints that count, newest first.

    `parents` says what each attempt resumed from. The newest attempt's own checkpoints count, then its parent's up
    to the step it resumed from, and so on; a superseded attempt's late commits are on no such path.
    """
    chain: list[str] = []
    attempt = max(parents, default=None)
    below: int | None = None
    while attempt is not None:
        own = [n for n in names if order_of(n)[1] == attempt and (below is None or order_of(n)[0] <= below)]
        chain += sorted(own, key=order_of, reverse=True)
        parent = parents.get(attempt)
        if parent is None:
            break
        below, attempt = order_of(parent)
    return chain


def candidates(names: list[str], parents: dict[int, str | None]) -> list[str]:
    """The checkpoints that count, newest first: without any record of attempts (a folder copied by hand) all do."""
    return follow(names, parents) if parents else sorted(names, key=order_of, reverse=True)


def verify(run: RunDir, name: str) -> str | None:
    """Why a checkpoint cannot be trusted, None when every byte is what was written.

    Raises: OSError where nobody can tell, because the disk or its server does not answer.
    """
    folder = run.checkpoints / name
    try:
        manifest = read_manifest(folder, *order_of(name))
    except CheckpointError as error:
        return str(error)
    for file, expected in manifest["files"].items():
        try:
            check_own(folder / file)
            if (folder / file).stat().st_size != expected["size"]:
                return f"{file} has {(folder / file).stat().st_size} bytes, not {expected['size']}"
            with (folder / file).open("rb") as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != expected["sha256"]:
                    return f"{file} does not have the sha256 that was written"
        except (OSError, ValueError) as error:
            if not is_flaw(error):
                raise
            return f"{file} cannot be read: {error}"
    return None


def verify_patiently(run: RunDir, name: str) -> str | None:
    """`verify`, once more after each of some pauses while the disk or its server does not answer."""
    for pause in PAUSES_SECONDS:
        try:
            return verify(run, name)
        except OSError as error:
            print(f"runner: {name}: {error}; looked at again in {pause:g} s", flush=True)
            time.sleep(pause)
    return verify(run, name)


def newest_valid(run: RunDir) -> tuple[str | None, list[str]]:
    """The newest checkpoint that verifies, and the newer ones refused with their reasons.

    Raises: CheckpointError when there are some but none verifies, or there were some and none is left: a trial
    never silently restarts from zero. OSError when none verifies and one could not be read, as it may be in a while.
    """
    names, parents = list_names(run), read_parents(run)
    refused: list[str] = []
    unread: OSError | None = None
    for name in candidates(names, parents):
        try:
            problem = verify_patiently(run, name)
        except OSError as error:
            unread, problem = error, f"cannot be read: {error}"
        if problem is None:
            return name, refused
        refused.append(f"{name}: {problem}")
    if unread is not None:
        raise unread
    if refused:
        raise CheckpointError(f"{run.checkpoints}: no checkpoint can be trusted: {'; '.join(refused)}")
    if step := last_saved_step(run, parents):
        raise CheckpointError(
            f"{run.checkpoints}: has no checkpoint, but one of step {step} was saved there; put it back, or remove "
            f"{run.path} to start anew"
        )
    return None, []


def last_saved_step(run: RunDir, parents: dict[int, str | None]) -> int:
    """The step of a checkpoint that the newest attempt wrote or resumed from, by what lies outside of `checkpoints`.

    0 when there was none; a superseded attempt's do not count.
    """
    newest = max(parents, default=None)
    if newest is None:
        return 0
    parent = parents[newest]
    return max(0 if parent is None else order_of(parent)[0], told_saved(run, newest))
