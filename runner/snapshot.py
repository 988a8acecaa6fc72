"""A copy of the training state, taken between two steps, that is written while training changes the original.

The copy goes into buffers that are allocated and touched once and then used for every checkpoint: a page that the
process has never written costs more than copying what belongs into it.
"""

import copy
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

ROOM = 0.9
"""A GPU holds a second copy of the state for a moment if its peak so far and the copy stay below this share of it."""


class Snapshot:
    """The buffers of one rank; one copy at a time, to be written before the next is taken."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._buffers: list[Tensor] = []
        self._kinds: list[tuple[object, ...]] = []
        self._staged: list[tuple[Tensor, Tensor]] = []
        self._ready: torch.cuda.Event | None = None

    def reserve(self, content: Any) -> None:
        """Allocate what a copy of this will need and touch every page of it, which takes as long as some copies."""
        for buffer in self._collect(content)[2]:
            buffer.zero_()

    def take(self, content: Any) -> Any:
        """The same nested values with every tensor on the host; call `wait` before its tensors are read.

        No tensor, list or dict of the copy is one of `content`. Tensors that share memory, as tied weights do, share
        it in the copy too.
        """
        copied, sources, buffers = self._collect(content)
        if self.device.type != "cuda":
            torch._foreach_copy_(buffers, sources)
            return copied
        on_device = [index for index, source in enumerate(sources) if source.is_cuda]
        for index in set(range(len(sources))).difference(on_device):
            buffers[index].copy_(sources[index])
        self._stage([sources[index] for index in on_device], [buffers[index] for index in on_device])
        return copied

    def _stage(self, sources: list[Tensor], buffers: list[Tensor]) -> None:
        """Copy on the device, which takes a fraction of a millisecond; `wait` brings that to the host.

        Without room for a second copy the device goes straight to the host, and its next step waits for that.
        """
        if self._has_room(sum(source.nbytes for source in sources)):
            clones = [torch.empty_like(source) for source in sources]
            _copy_all(clones, sources)
            self._staged = list(zip(buffers, clones, strict=True))
        else:
            for buffer, source in zip(buffers, sources, strict=True):
                buffer.copy_(source, non_blocking=True)
        self._ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._ready.record(torch.cuda.current_stream(self.device))

    def _has_room(self, size_bytes: int) -> bool:
        free, _ = torch.cuda.mem_get_info(self.device)
        ours = free + torch.cuda.memory_reserved(self.device)
        return torch.cuda.max_memory_allocated(self.device) + size_bytes < ROOM * ours

    def wait(self) -> None:
        """Until the copy is on the host; for the thread that writes it, on a stream of its own."""
        if self._ready is None:
            return
        stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        stream.wait_event(self._ready)
        with torch.cuda.stream(stream):
            for buffer, clone in self._staged:
                buffer.copy_(clone, non_blocking=True)
        stream.synchronize()
        self._staged, self._ready = [], None

    def _collect(self, content: Any) -> tuple[Any, list[Tensor], list[Tensor]]:
        """The nested values with buffers for tensors; which tensors those are for; the buffers, each once."""
        sources: list[Tensor] = []
        taken: dict[tuple[object, ...], Tensor] = {}

        def buffer_of(tensor: Tensor) -> Tensor:
            tensor = tensor.detach()
            key = (tensor.data_ptr(), tensor.device, tensor.dtype, tensor.shape, tensor.stride())
            if key not in taken:
                taken[key] = self._buffer(len(sources), tensor)
                sources.append(tensor)
            return taken[key]

        return _rebuild(content, buffer_of), sources, list(taken.values())

    def _buffer(self, index: int, tensor: Tensor) -> Tensor:
        """The buffer of this number, made anew where it does not fit."""
        kind = (tensor.dtype, tensor.shape, tensor.stride(), tensor.is_cuda)
        if index == len(self._buffers) or self._kinds[index] != kind:
            self._buffers[index : index + 1] = [torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)]
            self._kinds[index : index + 1] = [kind]
        return self._buffers[index]


def size_bytes(content: Any) -> int:
    """Bytes in the tensors of nested values."""
    if isinstance(content, Tensor):
        return content.nbytes
    if isinstance(content, dict):
        return sum(map(size_bytes, content.values()))
    if isinstance(content, list | tuple):
        return sum(map(size_bytes, content))
    return 0


def _rebuild(value: Any, buffer_of: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return buffer_of(value)
    if isinstance(value, dict):
        rebuilt = type(value)((key, _rebuild(item, buffer_of)) for key, item in value.items())
        if hasattr(value, "_metadata"):  # the versions of modules, in what state_dict() gives
            rebuilt._metadata = copy.deepcopy(value._metadata)  # type: ignore[attr-defined]
        return rebuilt
    if isinstance(value, list | tuple):
        return type(value)(_rebuild(item, buffer_of) for item in value)
    return copy.deepcopy(value)


def _copy_all(targets: Iterable[Tensor], sources: Iterable[Tensor]) -> None:
    """One kernel for each kind of tensor instead of one for each tensor."""
    groups: defaultdict[object, list[tuple[Tensor, Tensor]]] = defaultdict(list)
    for target, source in zip(targets, sources, strict=True):
        groups[source.dtype].append((target, source))
    for pairs in groups.values():
        torch._foreach_copy_([target for target, _ in pairs], [source for _, source in pairs])
