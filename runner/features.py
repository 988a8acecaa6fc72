"""Frozen features of a data set: what linear probes and nearest neighbours are fitted on.

Shapes: N samples of the data set, D features.
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from itertools import pairwise
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from runner.batch import Batch
from runner.dataset import Split
from runner.group import Group
from runner.loader import plain_batch
from runner.method import Method, evaluating
from runner.precision import Precision


class FrozenFeatures(NamedTuple):
    """One split of a data set as a method sees it, in the order of the data set."""

    features: Tensor
    """(N, D) float32 without gradient."""

    labels: Tensor | None
    """(N,) int64, or (N, classes) floats 0 or 1, on the same device; None where the data have none."""

    others: Mapping[str, Tensor] = MappingProxyType({})
    """What else the method's `embed` gave, each (N, ...), such as `scores`."""

    data: Split | None = None
    """The samples themselves."""


def extract_features(
    method: Method,
    data: Split,
    group: Group,
    batch_size: int = 256,
    *,
    before_batch: Callable[[int], None] | None = None,
    after_batch: Callable[[int], None] | None = None,
    precision: Precision | None = None,
    make_batch: Callable[[Split, Tensor, torch.device], Batch] = plain_batch,
) -> FrozenFeatures:
    """`method.embed` of every sample, shared out over the ranks and given to all of them; a collective call.

    The method is in evaluation mode meanwhile: batch norm uses its running statistics and leaves them alone.
    Every module gets its own mode back, also when something is raised. `batch_size` counts the samples of one
    forward pass of one rank; without `precision` everything is float32. `make_batch` may give views instead.

    `before_batch` and `after_batch` get the number of the forward pass. Every rank calls them equally often,
    so they may be collective, and may raise on all ranks to interrupt, as `Preemption.check` does.
    """
    N = len(data)
    bounds = [N * rank // group.world for rank in range(group.world + 1)]
    start, stop = bounds[group.rank], bounds[group.rank + 1]
    most = max(after - before for before, after in pairwise(bounds))

    def embed(first: int, last: int) -> dict[str, Tensor]:
        batch = make_batch(data, torch.arange(first, last), group.device)
        with nullcontext() if precision is None else precision.autocast():
            outputs = {name: output.float() for name, output in method.embed(batch).items()}
        for name, output in outputs.items():
            if len(output) != last - first:
                problem = f"embed gives {len(output)} rows of {name} for {last - first} samples"
                raise ValueError(f"{type(method).__name__}: {problem}; it must give one each")
        return outputs

    pieces: list[dict[str, Tensor]] = []
    with torch.no_grad(), evaluating(method):
        for index, offset in enumerate(range(0, most, batch_size)):
            if before_batch is not None:
                before_batch(index)
            first = start + offset
            last = min(first + batch_size, stop)
            # A rank with no samples left embeds one and keeps none: embed may be a collective call, too.
            kept = embed(first, last) if first < last else {name: out[:0] for name, out in embed(0, 1).items()}
            pieces.append(kept)
            if after_batch is not None:
                after_batch(index)
    outputs = {name: group.all_gather(torch.cat([piece[name] for piece in pieces])) for name in pieces[0]}
    labels = None if data.labels is None else data.labels.to(group.device)
    return FrozenFeatures(outputs.pop("features"), labels, outputs, data)
