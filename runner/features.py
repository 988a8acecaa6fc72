"""Frozen features of a data set: what linear probes and nearest neighbours are fitted on.

Shapes: N images of the data set, B in a forward pass, C channels, H x W pixels, D features.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from runner.dataset import ImageSet
from runner.errors import DataError
from runner.group import Group
from runner.method import Method
from runner.precision import Precision
from runner.views import plain_view


class FrozenFeatures(NamedTuple):
    """One split of a data set as its encoder sees it, in the order of the data set."""

    features: Tensor
    """(N, D) float32 without gradient."""

    labels: Tensor
    """(N,) int64, on the same device."""


def extract_features(
    method: Method,
    images: ImageSet,
    group: Group,
    batch_size: int = 256,
    *,
    before_batch: Callable[[int], None] | None = None,
    after_batch: Callable[[int], None] | None = None,
    precision: Precision | None = None,
) -> FrozenFeatures:
    """`method.encode` of every image, shared out over the ranks and given to all of them; a collective call.

    The method is in evaluation mode meanwhile: batch norm uses its running statistics and leaves them alone.
    Every module gets its own mode back, also when something is raised. `batch_size` counts the images of one
    forward pass of one rank; without `precision` everything is float32.

    `before_batch` and `after_batch` get the number of the forward pass. Every rank calls them equally often,
    so they may be collective, and may raise on all ranks to interrupt, as `Preemption.check` does.

    Raises DataError for images without labels.
    """
    if images.labels is None:
        raise DataError("frozen features are evaluated against labels, and these images have none")
    N = len(images)
    bounds = [N * rank // group.world for rank in range(group.world + 1)]
    start, stop = bounds[group.rank], bounds[group.rank + 1]
    most = max(after - before for before, after in pairwise(bounds))

    def encode(first: int, last: int) -> Tensor:
        pixels_BCHW = images.images[first:last].to(group.device, non_blocking=True)
        with nullcontext() if precision is None else precision.autocast():
            return method.encode(plain_view(pixels_BCHW, images.mean, images.std)).float()

    pieces = []
    with torch.no_grad(), evaluating(method):
        for index, offset in enumerate(range(0, most, batch_size)):
            if before_batch is not None:
                before_batch(index)
            first = start + offset
            last = min(first + batch_size, stop)
            # A rank with no images left encodes one and keeps none: encode may be a collective call, too.
            pieces.append(encode(first, last) if first < last else encode(0, 1)[:0])
            if after_batch is not None:
                after_batch(index)
    return FrozenFeatures(group.all_gather(torch.cat(pieces)), images.labels.to(group.device))


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards each part is back in its own mode, so that what was frozen stays frozen."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
