"""Which samples each step trains on, as a function of the step, and how a rank gets them.

One optimizer step takes `batch_size` samples of all ranks together, in `accumulate` micro-batches. The order of the
samples depends on (seed, epoch) alone, so neither an interruption nor the number of ranks or workers changes it.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from runner.batch import Batch
from runner.dataset import Records, Split
from runner.errors import ConfigError
from runner.group import Group
from runner.preemption import signals_blocked
from runner.processes import die_with
from runner.views import make_views, plain_view
from runner.views_config import ViewsConfig

HOLD_OUT_EPOCH = 2**62
"""No epoch has this number: what is held out is drawn apart from every order of the training data."""


@dataclass(frozen=True)
class Plan:
    """The order of one trial's samples."""

    samples: int
    batch_size: int
    accumulate: int
    seed: int

    def __post_init__(self) -> None:
        if self.steps_per_epoch == 0:
            raise ConfigError(
                f"train.batch_size: {self.batch_size} in {self.accumulate} parts is more than the {self.samples} "
                "samples of the data set; no step fits into an epoch"
            )

    @property
    def micro_batch_size(self) -> int:
        """Samples of all ranks in one forward pass."""
        return self.batch_size // self.accumulate

    @cached_property
    def steps_per_epoch(self) -> int:
        """Optimizer steps; the last window of an epoch may be short, what fills no micro-batch is left out."""
        full, rest = divmod(self.samples, self.batch_size)
        return full + (rest >= self.micro_batch_size)

    def epoch(self, position: int) -> int:
        return position // self.steps_per_epoch

    def parts(self, position: int) -> int:
        """Micro-batches of one optimizer step: `accumulate`, or fewer at the end of an epoch."""
        start = position % self.steps_per_epoch * self.batch_size
        return min(self.accumulate, (self.samples - start) // self.micro_batch_size)

    def window(self, position: int) -> list[np.ndarray]:
        """Sample indices of each micro-batch of one optimizer step, over all ranks."""
        epoch, index = divmod(position, self.steps_per_epoch)
        order = permutation(self.seed, epoch, self.samples)
        start, size = index * self.batch_size, self.micro_batch_size
        return [order[start + part * size : start + (part + 1) * size] for part in range(self.parts(position))]


@lru_cache(maxsize=2)
def permutation(seed: int, epoch: int, samples: int) -> np.ndarray:
    """The order of an epoch, from a counter-based generator keyed by (seed, epoch)."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(samples)


class Part(NamedTuple):
    """One micro-batch of this rank, raw."""

    rows: dict[str, Tensor]
    """Each (B, ...) on the training device: pixels as uint8, or the columns of records."""

    labels: Tensor | None
    ids: Tensor
    """(B,) int64 on the CPU: the key of each sample's random views."""


class _Gather(TorchDataset[Part]):
    """Fetches a whole micro-batch by its list of indices, in a worker or at once."""

    def __init__(self, data: Split) -> None:
        self.data = data

    def __getitem__(self, ids: Tensor) -> Part:
        labels = None if self.data.labels is None else self.data.labels[ids.to(self.data.labels.device)]
        return Part(self.data.take(ids), labels, ids)


class _Positions(Sampler[Tensor]):
    """This rank's index lists from one position on; what a worker is sent."""

    def __init__(self, plan: Plan, group: Group, start: int, stop: int) -> None:
        self.plan, self.group, self.start, self.stop = plan, group, start, stop

    def __iter__(self) -> Iterator[Tensor]:
        for position in range(self.start, self.stop):
            for rows in self.plan.window(position):
                own = len(rows) // self.group.world
                yield torch.from_numpy(rows[self.group.rank * own : (self.group.rank + 1) * own])


def iterate(data: Split, plan: Plan, group: Group, start: int, stop: int, workers: int = 0) -> Iterator[list[Part]]:
    """This rank's micro-batches of the optimizer steps at positions start..stop-1, one list a step."""
    dataset, positions = _Gather(data), _Positions(plan, group, start, stop)
    parts: Iterator[Part]
    # A process that is forked cannot use the GPU, and what lies there needs nobody to fetch it ahead.
    if workers == 0 or any(column.device.type != "cpu" for column in data.columns.values()):
        parts = (dataset[ids] for ids in positions)
    else:
        loader = DataLoader(
            dataset,
            batch_size=None,
            sampler=positions,
            num_workers=workers,
            worker_init_fn=_begin_worker,
            # Whatever started this rank: a worker dies with its parent, which is to be us.
            multiprocessing_context="fork",
            pin_memory=group.device.type == "cuda",
            # Its own generator: an iterator draws a base seed, which must not come from the global one.
            generator=torch.Generator().manual_seed(plan.seed % 2**63),
        )
        with signals_blocked():
            parts = iter(loader)
    for position in range(start, stop):
        yield [_to_device(next(parts), group.device) for _ in range(plan.parts(position))]


def _begin_worker(number: int) -> None:
    """Torch's workers look for their parent every five seconds, and never while they read a sample."""
    die_with(os.getppid())


def _to_device(part: Part, device: torch.device) -> Part:
    if device.type == "cpu":
        return part
    labels = None if part.labels is None else part.labels.to(device, non_blocking=True)
    return Part({name: row.to(device, non_blocking=True) for name, row in part.rows.items()}, labels, part.ids)


def resident(data: Split, device: torch.device) -> Split:
    """The same samples on the GPU where they take at most a quarter of its free memory, else as they are."""
    if device.type != "cuda":
        return data
    free, _ = torch.cuda.mem_get_info(device)
    if data.nbytes > free // 4:
        return data
    return data.to(device)


def train_batch(data: Split, part: Part, views: ViewsConfig, seed: int, epoch: int) -> Batch:
    """What a method trains on: random views of images, each a function of (seed, epoch, sample, view); or records."""
    if isinstance(data, Records):
        return Batch(labels=part.labels, ids=part.ids, columns=part.rows)
    pixels = part.rows["images"]
    large, small = make_views(pixels, part.ids, views, seed=seed, epoch=epoch, mean=data.mean, std=data.std)
    return Batch(large, small, part.labels, part.ids)


def fetch(data: Split, ids_B: Tensor, device: torch.device) -> Part:
    """Some samples, raw, at once."""
    return _to_device(_Gather(data)[ids_B], device)


def plain_batch(data: Split, ids_B: Tensor, device: torch.device) -> Batch:
    """What a method is evaluated on: images as they are, or records."""
    part = fetch(data, ids_B, device)
    if isinstance(data, Records):
        return Batch(labels=part.labels, ids=ids_B, columns=part.rows)
    return Batch([plain_view(part.rows["images"], data.mean, data.std)], [], part.labels, ids_B)


def hold_out(data: Split, share: float, seed: int) -> tuple[Split, Split]:
    """A training set without, and of only, a random `share` of its samples; at least one of each, over its pixels."""
    count = min(max(round(share * len(data)), 1), len(data) - 1)
    order = torch.from_numpy(permutation(seed, HOLD_OUT_EPOCH, len(data)))
    return data.part(order[count:].sort().values), data.part(order[:count].sort().values)
