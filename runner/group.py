"""The process group of one trial: rank, world size, device, and the few collectives the project uses.

`Group()` is the one-process case: every collective is the identity and torch.distributed is not touched, so
losses and trainer read the same on a laptop and on a cluster.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import Store

COLLECTIVE_TIMEOUT_SECONDS = 600
"""How long a rank waits for its peers inside a collective; meeting at the store has its own, shorter limit."""


@dataclass(frozen=True)
class Group:
    """Who takes part in a trial, seen from one rank."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    data: Any = None
    """The torch.distributed group of tensors on `device` (NCCL or gloo); None means the default group."""
    control: Any = None
    """A gloo group for flags and barriers on CPU tensors, so that a decision never waits behind a GPU."""

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def all_gather(self, x_BD: Tensor) -> Tensor:
        """Rows of all ranks in rank order, no gradient; ranks may hold different numbers of rows."""
        if self.world == 1:
            return x_BD.detach()
        sizes = self.sizes(len(x_BD))
        if len(set(sizes)) == 1:
            x_GD = x_BD.new_empty((self.world * len(x_BD), *x_BD.shape[1:]))
            dist.all_gather(list(x_GD.chunk(self.world)), x_BD.detach().contiguous(), group=self.data)
            return x_GD
        padded = x_BD.new_zeros((max(sizes), *x_BD.shape[1:]))
        padded[: len(x_BD)] = x_BD.detach()
        pieces = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(pieces, padded, group=self.data)
        return torch.cat([piece[:size] for piece, size in zip(pieces, sizes, strict=True)])

    def sizes(self, own: int) -> list[int]:
        """How many rows each rank holds."""
        if self.world == 1:
            return [own]
        counts = torch.zeros(self.world, dtype=torch.int64)
        counts[self.rank] = own
        dist.all_reduce(counts, group=self.control)
        return [int(count) for count in counts]

    def differing(self, text: str) -> list[int]:
        """The ranks whose text is not that of rank 0, over the control group."""
        digests = self.sizes(int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big"))
        return [rank for rank, digest in enumerate(digests) if digest != digests[0]]

    def all_reduce_sum(self, x: Tensor) -> Tensor:
        """The sum over ranks, as a new tensor without gradient."""
        total = x.detach().clone()
        if self.world > 1:
            dist.all_reduce(total, group=self.data)
        return total

    def agree_max(self, value: int) -> int:
        """The largest value of any rank, over the control group."""
        if self.world == 1:
            return value
        flag = torch.tensor([value], dtype=torch.int64)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self.control)
        return int(flag)

    def broadcast_json(self, document: Any) -> Any:
        """Rank 0's JSON document on every rank, over the control group; JSON, because pickles from a network run."""
        if self.world == 1:
            return document
        content = json.dumps(document).encode() if self.is_main else b""
        size = torch.tensor([len(content)], dtype=torch.int64)
        dist.broadcast(size, 0, group=self.control)
        data = torch.frombuffer(bytearray(content or bytes(int(size))), dtype=torch.uint8)
        dist.broadcast(data, 0, group=self.control)
        return json.loads(data.numpy().tobytes())

    def barrier(self) -> None:
        """Wait for every rank, over the control group."""
        if self.world > 1:
            dist.barrier(group=self.control)


def pick_device(local_rank: int, backend: str = "auto") -> torch.device:
    """The device of a rank: its own GPU where there is one, unless gloo was asked for."""
    if backend != "gloo" and torch.cuda.is_available():
        return torch.device("cuda", local_rank % torch.cuda.device_count())
    return torch.device("cpu")


@contextmanager
def joined(rank: int, world: int, local_rank: int, store: Store | None, backend: str = "auto") -> Iterator[Group]:
    """Join the process group of `world` ranks through `store`, and leave it at the end, whatever happened.

    NCCL carries tensors when CUDA is there, gloo otherwise; a second gloo group carries control messages.
    With one rank there is nothing to join and `store` is not used.
    """
    device = pick_device(local_rank, backend)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if world == 1:
        yield Group(device=device)
        return
    assert store is not None, "several ranks need a store to meet at"
    timeout = timedelta(seconds=COLLECTIVE_TIMEOUT_SECONDS)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=store,
        rank=rank,
        world_size=world,
        timeout=timeout,
        device_id=device if device.type == "cuda" else None,
    )
    try:
        control = dist.new_group(backend="gloo", timeout=timeout)
        yield Group(rank, world, local_rank, device, dist.group.WORLD, control)
    finally:
        dist.destroy_process_group()
