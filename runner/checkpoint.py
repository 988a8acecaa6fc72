"""Checkpoints that a crash, a kill or a power loss at any byte cannot turn into a lost trial.

checkpoints/step_<8 digits>.<attempt>/ holds one file a rank and manifest.json with their sizes and sha256. It is
written beside its place, every file and the folder fsynced, renamed, the parent fsynced; only then are old ones
pruned. A reader takes the newest one that verifies along the lineage of the newest attempt.
"""

import contextlib
import hashlib
import io
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import torch

from runner.attempt import Attempt, read_parents
from runner.errors import CheckpointError, SaveError
from runner.explain import counted
from runner.faults import NO_FAULTS, Faults
from runner.files import read_json, sync_path
from runner.group import Group
from runner.lineage import candidates, list_names, name_of, order_of, verify
from runner.manifest import FORMAT, file_of, seal
from runner.rundir import RunDir
from runner.weights import read_tensors

PIECE_BYTES = 8 * 2**20


@dataclass(frozen=True)
class Checkpoint:
    """What a rank reads back."""

    name: str
    step: int
    manifest: dict[str, Any]
    shared: dict[str, Any]
    """Rank 0's part: model, optimizer, scaler, counters."""

    own: dict[str, Any]
    """This rank's part: RNG, buffers, metric accumulators."""

    refused: tuple[str, ...] = ()
    """Newer checkpoints that did not verify, each with its reason."""


class _HashingFile(io.RawIOBase):
    """A file that hashes what goes through it, and calls `check` between its pieces."""

    def __init__(self, file: IO[bytes], check: Callable[[], None]) -> None:
        self.file, self.check, self.digest, self.size = file, check, hashlib.sha256(), 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        for begin in range(0, len(view), PIECE_BYTES):
            self.check()
            piece = view[begin : begin + PIECE_BYTES]
            self.file.write(piece)
            self.digest.update(piece)
        self.size += len(view)
        return len(view)


def save(
    run: RunDir,
    group: Group,
    attempt: Attempt,
    step: int,
    shared: dict[str, Any],
    own: dict[str, Any],
    facts: dict[str, Any],
    faults: Faults = NO_FAULTS,
) -> str:
    """Write a checkpoint with all ranks and return its name; a collective call.

    `shared` counts on rank 0 only; `facts` (trial, versions) go into the manifest.
    Raises: CheckpointError on all ranks if any rank could not write; SupersededError when a newer attempt exists.
    """
    name = name_of(step, attempt.number)
    beside = run.checkpoints / f".tmp-{name}"
    error: Exception | None = None
    if group.is_main:
        try:
            faults.at("checkpoint")
            make_folder(run)
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir()
        except OSError as problem:
            error = problem
    group.barrier()
    size, digest = 0, bytes(32)
    if error is None:
        try:
            size, digest = write_part(beside, group.rank, shared, own, faults)
        except (OSError, RuntimeError) as problem:  # torch wraps a full disk in a RuntimeError
            error = problem
    files = _gather_files(group, error is None, size, digest)
    if None in files:
        failed = ", ".join(str(rank) for rank, file in enumerate(files) if file is None)
        if group.is_main:
            shutil.rmtree(beside, ignore_errors=True)
        raise SaveError(f"step {step}: rank {failed} could not write its part: {error or 'see its log'}") from error
    if group.is_main:
        error = commit(run, beside, attempt, step, files, facts, faults)
    if group.agree_max(int(error is not None)):
        raise SaveError(f"step {step}: rank 0 could not commit it: {error or 'see its log'}") from error
    return name


def make_folder(run: RunDir) -> None:
    """Make the folder of the checkpoints; its name must survive a power loss, or all that lies in it goes with it."""
    try:
        run.checkpoints.mkdir()
    except FileExistsError:
        return
    sync_path(run.path)


def write_part(
    beside: Path,
    rank: int,
    shared: dict[str, Any],
    own: dict[str, Any],
    faults: Faults,
    check: Callable[[], None] = lambda: None,
) -> tuple[int, bytes]:
    """Write one rank's file and return its size and sha256; it is on disk then.

    `check` is called every few megabytes and may raise, to give the file up.
    """
    faults.at("checkpoint.file")
    content = {"shared": shared, "own": own} if rank == 0 else {"own": own}
    size, digest = _write(beside / file_of(rank), content, check)
    faults.at("checkpoint.barrier")
    return size, digest


def _write(path: Path, content: dict[str, Any], check: Callable[[], None] = lambda: None) -> tuple[int, bytes]:
    with path.open("wb") as file:
        hashing = _HashingFile(file, check)
        torch.save(content, cast(IO[bytes], hashing))
        file.flush()
        os.fsync(file.fileno())
    return hashing.size, hashing.digest.digest()


def _gather_files(group: Group, written: bool, size: int, digest: bytes) -> list[dict[str, Any] | None]:
    """What each rank wrote, None for a rank that could not."""
    row = torch.tensor([int(written), size, *digest], dtype=torch.int64)
    rows = [row]
    if group.world > 1:
        rows = [torch.empty_like(row) for _ in range(group.world)]
        torch.distributed.all_gather(rows, row, group=group.control)
    return [{"size": int(row[1]), "sha256": bytes(row[2:].tolist()).hex()} if int(row[0]) else None for row in rows]


def commit(
    run: RunDir,
    beside: Path,
    attempt: Attempt,
    step: int,
    files: Sequence[dict[str, Any] | None],
    facts: dict[str, Any],
    faults: Faults,
) -> Exception | None:
    """Make a checkpoint of what all ranks have put on disk in `beside`, and leave word of it; why it failed, if so.

    `files` are the size and sha256 of each rank's file.
    """
    place = run.checkpoints / name_of(step, attempt.number)
    manifest = {
        "format": FORMAT,
        "step": step,
        "attempt": attempt.number,
        "world_size": len(files),
        "time": time.time(),
        "files": {file_of(rank): file for rank, file in enumerate(files)},
        "trial": run.trial,
        "facts": facts,
    }
    try:
        faults.at("checkpoint.manifest")
        with (beside / "manifest.json").open("wb") as file:
            file.write(seal(manifest))
            file.flush()
            os.fsync(file.fileno())
        sync_path(beside)
        # The name carries the attempt, so a commit that slips past this check is never read either.
        attempt.check_fence()
        assert not place.exists(), f"{place.name} was saved twice by one attempt"
        faults.at("checkpoint.rename")
        os.rename(beside, place)
        sync_path(run.checkpoints)
        faults.at("checkpoint.renamed")
    except Exception as error:
        if isinstance(error, OSError):
            # On a full disk what cannot be committed is in the way of the next one.
            shutil.rmtree(beside, ignore_errors=True)
        return error
    # A disk that is full by now does not take back what is committed.
    with contextlib.suppress(OSError):
        attempt.record_saved(step)
    return None


def which_to_prune(names: list[str], *, keep: int, keep_every_steps: int | None, best_step: int | None) -> list[str]:
    """The checkpoints that may go: all but the newest `keep`, the best, and every n-th step."""
    by_step = sorted(names, key=order_of)
    return [
        name
        for name in by_step[:-keep]
        if order_of(name)[0] != best_step and not (keep_every_steps and order_of(name)[0] % keep_every_steps == 0)
    ]


def prune(run: RunDir, *, keep: int, keep_every_steps: int | None, best_step: int | None) -> None:
    """Remove what is not kept, but only once the newest checkpoint has been read back and verified.

    What counts is the lineage of the newest attempt, whoever calls this. A late commit of a superseded attempt is on
    no lineage: it takes nobody's place among the newest, and goes.
    """
    names, parents = list_names(run), read_parents(run)
    counting = candidates(names, parents)
    if not counting or verify(run, counting[0]) is not None:
        return
    newest = max(parents, default=0)
    late = [name for name in names if name not in counting and order_of(name)[1] < newest]
    for name in late + which_to_prune(counting, keep=keep, keep_every_steps=keep_every_steps, best_step=best_step):
        os.rename(run.checkpoints / name, run.checkpoints / f".del-{name}")
    for left in run.checkpoints.glob(".del-*"):
        shutil.rmtree(left, ignore_errors=True)


def clean(run: RunDir) -> None:
    """Remove what killed writers left; call at the start of an attempt."""
    for left in [*run.checkpoints.glob(".tmp-*"), *run.checkpoints.glob(".del-*")]:
        shutil.rmtree(left, ignore_errors=True)


def load(run: RunDir, group: Group, name: str, refused: list[str]) -> Checkpoint:
    """This rank's view of a verified checkpoint.

    Raises: CheckpointError when it was saved by another number of ranks; `load_parts` reads those.
    """
    folder = run.checkpoints / name
    manifest = read_json(folder / "manifest.json")
    assert manifest is not None, name
    if manifest["world_size"] != group.world:
        raise CheckpointError(
            f"{name}: saved by {counted(manifest['world_size'], 'rank')}, resumed on {group.world}; "
            f"set resources.ranks={manifest['world_size']}, or `runner retry --elastic` with the new number"
        )
    main = read_tensors(folder / file_of(0))
    own = main if group.is_main else read_tensors(folder / file_of(group.rank))
    shared = main.get("shared")
    if not isinstance(shared, dict) or "method" not in shared or not isinstance(own.get("own"), dict):
        raise CheckpointError(f"{folder}: holds no state of a trial")
    if shared.get("step") != manifest["step"]:
        raise CheckpointError(f"{folder}: holds step {shared.get('step')}, its manifest says {manifest['step']}")
    return Checkpoint(name, manifest["step"], manifest, shared, own["own"], tuple(refused))


def world_size(run: RunDir, name: str) -> int:
    """How many ranks saved a verified checkpoint."""
    manifest = read_json(run.checkpoints / name / "manifest.json")
    assert manifest is not None, name
    return int(manifest["world_size"])


def load_parts(run: RunDir, name: str, refused: list[str]) -> tuple[Checkpoint, list[dict[str, Any]]]:
    """A verified checkpoint as rank 0 sees it, and the own parts of all ranks that saved it."""
    world = world_size(run, name)
    whole = load(run, Group(world=world), name, refused)
    others = [read_tensors(run.checkpoints / name / file_of(rank))["own"] for rank in range(1, world)]
    return whole, [whole.own, *others]
