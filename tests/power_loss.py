"""A model of what a disk may hold after a crash, over recorded operations of real code.

`recording` notes what is done to files and folders below one folder. `disks_after` replays a prefix in memory and
gives every disk that a crash of the process or of the machine may leave there:

- the process dies: everything that was written is there;
- the power goes: what was fsynced is there. The bytes of a file since its last fsync are gone, or half of them are
  there. What was done to names in a folder (a file made, renamed, removed) since the last fsync of that folder is
  there up to some point, in the order in which it was done, and gone from there on.

That is less than real file systems keep: nothing but an fsync of the folder keeps a name in it. It is a model, and says
nothing of what NFS or Lustre do.
"""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

Disk = dict[str, "bytes | None"]
"""Content by path below the folder, None for a folder."""


@dataclass(frozen=True)
class Operation:
    """One thing done to the disk; `node` is a number for what a path stood for then."""

    kind: str
    """make, write, sync, link (a name, or OLD/NEW for a rename), unlink, or ack."""

    node: int = -1
    """The file, or the folder whose names change or that is synced."""

    name: str = ""
    child: int = -1
    """What a name stands for from now on (link)."""

    data: bytes = b""
    is_folder: bool = False
    step: int = 0
    """What is acknowledged by now (ack)."""


@dataclass
class Recording:
    """Operations below `folder`, whose own node is 0 and was there before."""

    folder: Path
    operations: list[Operation] = field(default_factory=list)
    nodes: dict[int, int] = field(default_factory=dict)
    """Node by the inode number it has now."""

    made: int = 0

    def acknowledge(self, step: int) -> None:
        self.operations.append(Operation("ack", step=step))

    def node_at(self, path: Path) -> int:
        return self.nodes[os.stat(path).st_ino]

    def make(self, path: Path, is_folder: bool) -> None:
        """Something new stands at this path."""
        self.made += 1
        self.nodes[os.stat(path).st_ino] = self.made
        self.operations.append(Operation("make", self.made, is_folder=is_folder))
        self.link(path, self.made)

    def link(self, path: Path, child: int) -> None:
        self.operations.append(Operation("link", self.node_at(path.parent), path.name, child))

    def unlink(self, path: Path) -> None:
        self.operations.append(Operation("unlink", self.node_at(path.parent), path.name))

    def covers(self, path: Path) -> bool:
        return path.is_relative_to(self.folder)


class _File:
    """A file open for writing whose writes are recorded."""

    def __init__(self, file: Any, recording: Recording, node: int) -> None:
        self._file, self._recording, self._node = file, recording, node

    def __enter__(self) -> "_File":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, data: Any) -> int:
        self._recording.operations.append(Operation("write", self._node, data=bytes(data)))
        return int(self._file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _path_of(name: Any, folder_descriptor: int | None = None) -> Path:
    path = Path(os.fsdecode(name))
    return path if folder_descriptor is None else _path_behind(folder_descriptor) / path


def _path_behind(descriptor: int) -> Path:
    return Path(os.readlink(f"/proc/self/fd/{descriptor}"))


@contextmanager
def recording(folder: Path) -> Iterator[Recording]:
    """Note what this process does below a folder that is there and on disk."""
    record = Recording(folder.resolve())
    record.nodes[os.stat(folder).st_ino] = 0
    real = {
        name: getattr(os, name) for name in ("open", "write", "fsync", "rename", "replace", "mkdir", "unlink", "rmdir")
    }
    real_open = io.open

    def open_file(file: Any, mode: str = "r", *rest: Any, **more: Any) -> Any:
        path = _path_of(file) if isinstance(file, str | os.PathLike) else Path("/")
        if mode == "r" or "r" in mode or not record.covers(path):
            return real_open(file, mode, *rest, **more)
        assert "w" in mode and not path.exists(), f"{path}: written in place"
        opened = real_open(file, mode, *rest, **more)
        record.make(path, is_folder=False)
        return _File(opened, record, record.node_at(path))

    def open_descriptor(file: Any, flags: int, *rest: Any, **more: Any) -> int:
        path = _path_of(file, more.get("dir_fd"))
        is_new = record.covers(path) and bool(flags & os.O_CREAT) and not path.exists()
        descriptor = int(real["open"](file, flags, *rest, **more))
        if is_new:
            record.make(path, is_folder=False)
        return descriptor

    def write(descriptor: int, data: Any) -> int:
        if record.covers(_path_behind(descriptor)):
            node = record.nodes[os.fstat(descriptor).st_ino]
            record.operations.append(Operation("write", node, data=bytes(data)))
        return int(real["write"](descriptor, data))

    def fsync(descriptor: int) -> None:
        real["fsync"](descriptor)
        if record.covers(_path_behind(descriptor)):
            record.operations.append(Operation("sync", record.nodes[os.fstat(descriptor).st_ino]))

    def move(old: Any, new: Any, **more: Any) -> None:
        source, target = _path_of(old, more.get("src_dir_fd")), _path_of(new, more.get("dst_dir_fd"))
        real["rename"](old, new, **more)
        if record.covers(target):
            assert source.parent == target.parent, "names move within a folder here"
            # One operation: of a rename within a folder both sides are seen, or none.
            node, child = record.node_at(target.parent), record.node_at(target)
            record.operations.append(Operation("link", node, f"{source.name}/{target.name}", child))

    def mkdir(path: Any, *rest: Any, **more: Any) -> None:
        real["mkdir"](path, *rest, **more)
        if record.covers(_path_of(path, more.get("dir_fd"))):
            record.make(_path_of(path, more.get("dir_fd")), is_folder=True)

    def remove(kind: str) -> Any:
        def run(path: Any, *rest: Any, **more: Any) -> None:
            where = _path_of(path, more.get("dir_fd"))
            real[kind](path, *rest, **more)
            if record.covers(where):
                record.unlink(where)

        return run

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(io, "open", open_file)
        for name, replacement in {
            "open": open_descriptor,
            "write": write,
            "fsync": fsync,
            "rename": move,
            "replace": move,
            "mkdir": mkdir,
            "unlink": remove("unlink"),
            "rmdir": remove("rmdir"),
        }.items():
            patch.setattr(os, name, replacement)
        yield record


def disks_after(operations: list[Operation]) -> Iterator[tuple[str, Disk]]:
    """What kind of crash, and the disk it may leave, after these operations; a disk may come more than once."""
    names = [i for i, operation in enumerate(operations) if operation.kind in ("link", "unlink")]
    synced_at = {operation.node: i for i, operation in enumerate(operations) if operation.kind == "sync"}
    yield "process crash", _tree(operations, names, _contents(operations, {}, 1.0))
    kept = [i for i in names if i < synced_at.get(operations[i].node, -1)]
    pending = [i for i in names if i not in kept]
    for share in (0.0, 0.5):
        contents = _contents(operations, synced_at, share)
        for count in range(len(pending) + 1):
            yield "power loss", _tree(operations, sorted(kept + pending[:count]), contents)


def _contents(operations: list[Operation], synced_at: dict[int, int], share: float) -> dict[int, bytes]:
    """The bytes of every file: up to its last fsync, and of what came since this share."""
    safe: dict[int, bytes] = {}
    loose: dict[int, bytes] = {}
    for i, operation in enumerate(operations):
        if operation.kind == "write":
            pieces = safe if i < synced_at.get(operation.node, -1) else loose
            pieces[operation.node] = pieces.get(operation.node, b"") + operation.data
    return {
        node: safe.get(node, b"") + loose.get(node, b"")[: int(len(loose.get(node, b"")) * share)]
        for node in {*safe, *loose}
    }


def _tree(operations: list[Operation], names: list[int], contents: dict[int, bytes]) -> Disk:
    """The disk on which exactly these changes of names have happened."""
    folders: dict[int, dict[str, int]] = {0: {}}
    folders |= {operation.node: {} for operation in operations if operation.kind == "make" and operation.is_folder}
    for i in names:
        operation = operations[i]
        entries = folders[operation.node]
        if operation.kind == "unlink":
            entries.pop(operation.name, None)
            continue
        source, _, target = operation.name.rpartition("/")
        entries.pop(source, None)
        entries[target] = operation.child
    disk: Disk = {}

    def walk(node: int, path: str) -> None:
        for name, child in folders[node].items():
            disk[f"{path}{name}"] = None if child in folders else contents.get(child, b"")
            if child in folders:
                walk(child, f"{path}{name}/")

    walk(0, "")
    return disk


def materialise(disk: Disk, folder: Path) -> None:
    folder.mkdir()
    for name, content in disk.items():
        if content is None:
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(content)
