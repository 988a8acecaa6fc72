"""TrainState: everything that must survive a requeue, and nothing else.

Learning rate, temperature schedules, curriculum stages, data order and augmentation are functions of the step and the
seed, so they are not state. What is saved is listed once, here, and the fingerprint hashes the same list.
"""

import hashlib
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from runner.errors import CheckpointError
from runner.group import Group
from runner.meters import Meters
from runner.method import Method
from runner.precision import Precision


@dataclass
class TrainState:
    """The moving parts of a trial at a step boundary."""

    method: Method
    optimizer: torch.optim.Optimizer
    precision: Precision
    meters: Meters = field(default_factory=Meters)

    step: int = 0
    """Optimizer steps done."""

    skipped: int = 0
    """Optimizer steps of the plan left out because an epoch was broken off."""

    tracked_step: int = -1
    """The last step whose row stands in metrics.jsonl."""

    evaluated_step: int = -1
    """The last step that was evaluated."""

    finished: bool = False
    """A hook ended the run before its planned steps."""

    best: dict[str, Any] = field(default_factory=dict)
    """{"metric", "value", "step"} of the best evaluation so far."""

    seconds: dict[str, float] = field(default_factory=dict)
    """Where the time of all attempts went."""

    COUNTERS = ("step", "skipped", "tracked_step", "evaluated_step", "finished", "best")

    def shared(self) -> dict[str, Any]:
        """What is the same on all ranks; rank 0 saves it."""
        return {
            **{name: getattr(self, name) for name in self.COUNTERS},
            "seconds": dict(self.seconds),
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.precision.state_dict(),
        }

    def own(self) -> dict[str, Any]:
        """What differs between ranks; every rank saves its own."""
        return {
            "buffers": dict(self.method.named_buffers()),
            "meters": self.meters.state_dict(),
            "rng": rng_state(),
        }

    def restore(self, shared: dict[str, Any], own: dict[str, Any], device: torch.device) -> None:
        """Put back what `shared` and `own` gave.

        Raises: CheckpointError naming the first tensors that do not fit the model.
        """
        if missing := [name for name in (*self.COUNTERS, "seconds", "optimizer", "scaler") if name not in shared]:
            raise CheckpointError(f"the checkpoint has no {missing[0]}")
        for name in self.COUNTERS:
            setattr(self, name, shared[name])
        self.seconds = dict(shared["seconds"])
        if problems := misfits(self.method, shared["method"]):
            raise CheckpointError(f"the checkpoint does not fit this model: {problems}")
        try:
            self.method.load_state_dict(shared["method"])
            self.optimizer.load_state_dict(shared["optimizer"])
        except (RuntimeError, ValueError, KeyError) as error:
            detail = "; ".join(line.strip() for line in str(error).splitlines()[:6])
            raise CheckpointError(f"the checkpoint does not fit this model: {detail}") from error
        self.precision.load_state_dict(shared["scaler"])
        with torch.no_grad():
            for name, buffer in self.method.named_buffers():
                buffer.copy_(own["buffers"][name])
        self.meters.load_state_dict(own["meters"], device)
        # Last: loading must not be able to draw from the generators afterwards.
        set_rng_state(own["rng"])

    def digests(self) -> dict[str, str]:
        """A short digest of everything that this rank's fingerprint hashes, piece by piece, by dotted name."""
        found = {}
        for part, value in self._parts().items():
            for name, leaf in _leaves(part, value):
                digest = hashlib.blake2b(digest_size=8)
                for piece in _bytes_of(leaf):
                    digest.update(piece)
                found[name] = digest.hexdigest()
        return found

    def _parts(self) -> dict[str, Any]:
        """What the fingerprint hashes, in its order."""
        shared = self.shared()
        counters = {name: shared[name] for name in self.COUNTERS}
        return {
            "counters": counters,
            **{name: shared[name] for name in ("method", "optimizer", "scaler")},
            "own": self.own(),
        }

    def fingerprint(self, group: Group) -> str:
        """sha256 of the whole training state on all ranks; equal for equal runs, however often interrupted.

        Each rank hashes, in this order: counters, method (parameters and buffers by name), optimizer, scaler, its own
        buffers, metric accumulators, RNG states. Dicts go in the order of their sorted keys; a tensor gives its dtype,
        shape and raw bytes, any other value its type and repr. Rank 0 hashes the ranks' digests in rank order. Times
        are left out.
        """
        digest = hashlib.sha256()
        for part in self._parts().values():
            for piece in _bytes_of(part):
                digest.update(piece)
        own = torch.tensor(list(digest.digest()), dtype=torch.int64)
        if group.world == 1:
            rows = [own]
        else:
            rows = [torch.empty_like(own) for _ in range(group.world)]
            torch.distributed.all_gather(rows, own, group=group.control)
        return hashlib.sha256(b"".join(bytes(row.tolist()) for row in rows)).hexdigest()


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Everything in a tree of dicts and lists that is neither, by its dotted name."""
    items: Iterable[tuple[Any, Any]]
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        yield name, value
        return
    for key, inner in items:
        yield from _leaves(f"{name}.{key}", inner)


def misfits(module: torch.nn.Module, given: Any) -> str:
    """The first five tensors that are missing, unexpected or of another shape, and their number; empty if all fit."""
    if not isinstance(given, dict):
        return f"{type(given).__name__} is no mapping of names to tensors"
    wanted = module.state_dict()
    problems = [f"{name} is missing" for name in wanted if name not in given]
    problems += [f"{name} is not expected" for name in given if name not in wanted]
    problems += [
        f"{name} is {_shape(given[name])}, not {_shape(wanted[name])}"
        for name in wanted
        if name in given and _shape(given[name]) != _shape(wanted[name])
    ]
    return f"{'; '.join(problems[:5])} ({len(problems)} in all)" if problems else ""


def _shape(value: Any) -> Any:
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__


def _bytes_of(value: Any) -> Iterator[bytes]:
    if isinstance(value, Tensor):
        flat = value.detach().cpu().contiguous()
        yield f"{flat.dtype}{tuple(flat.shape)}".encode()
        yield flat.flatten().view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    elif isinstance(value, dict):
        for key in sorted(value, key=repr):
            yield repr(key).encode()
            yield from _bytes_of(value[key])
    elif isinstance(value, list | tuple):
        yield f"[{len(value)}]".encode()
        for item in value:
            yield from _bytes_of(item)
    else:
        yield f"{type(value).__name__}{value!r}".encode()


def rng_state() -> dict[str, Any]:
    """The global generators of Python, NumPy and torch, in types that `weights_only` loading accepts."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": [version, list(words), gauss],
        "numpy": [name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,  # type: ignore[no-untyped-call]
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Put back what `rng_state` gave."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"])


@contextmanager
def rng_untouched() -> Iterator[None]:
    """Whatever happens inside, the global generators are as before afterwards."""
    before = rng_state()
    try:
        yield
    finally:
        set_rng_state(before)


def seed_everything(seed: int, rank: int, step: int = 0) -> None:
    """Seed the global generators; each rank gets its own stream, the same on every start from that step."""
    key = [seed, rank, step] if step else [seed, rank]
    words = np.random.SeedSequence(key).generate_state(3, dtype=np.uint32)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    torch.manual_seed(int(words[2]))
