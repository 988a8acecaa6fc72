"""The keys of past batches, as more negatives than one batch has: the queue of momentum contrast.

Source: He et al. 2020, "Momentum Contrast for Unsupervised Visual Representation Learning", section 3.1.

Shapes: B keys on this rank, N on all ranks, K rows of the queue, D width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from runner.group import Group


class Queue(nn.Module):
    """The newest K keys of all ranks, the same on every rank; random unit rows until it has been filled.

    `rows` (K, D) and `next`, the row that will be overwritten next, are buffers: a checkpoint has them, and a
    requeue goes on with the same negatives.
    """

    rows: Tensor
    next: Tensor

    def __init__(self, size: int, width: int) -> None:
        """Draws from torch's generator, as the initial weights of a network do."""
        super().__init__()
        self.register_buffer("rows", F.normalize(torch.randn(size, width), dim=1))
        self.register_buffer("next", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def enqueue(self, keys_BD: Tensor, group: Group) -> None:
        """Overwrite the oldest rows by the keys of all ranks, in rank order, as they are; a collective call.

        Call it after the backward pass of a loss that compared with `rows`, which is changed in place. Ranks
        may hold different numbers of keys, and all of them together may be more than the queue has rows: then
        the last ones stay. Nothing waits for the device.
        """
        keys_ND = group.all_gather(keys_BD.to(self.rows.dtype))
        N, K = len(keys_ND), len(self.rows)
        kept = min(N, K)
        places = (self.next + torch.arange(N - kept, N, device=self.rows.device)) % K
        self.rows.index_copy_(0, places, keys_ND[N - kept :])
        self.next.add_(N).remainder_(K)
