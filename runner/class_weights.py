"""Weights that make up for classes of different sizes, as in MUTarget.

Shapes: N samples, C classes.
"""

import torch
from torch import Tensor


def class_weights(labels_NC: Tensor) -> Tensor:
    """(C,) size of the smallest class over the size of each; 0 for a class without members."""
    counts_C = labels_NC.sum(0, dtype=torch.float64)
    held_C = counts_C > 0
    if not held_C.any():
        return torch.zeros_like(counts_C)
    return torch.where(held_C, counts_C[held_C].min() / counts_C.clamp(min=1), 0.0)


def sample_weights(labels_NC: Tensor, weights_C: Tensor) -> Tensor:
    """(N,) the largest weight of a sample's classes; one without any weighs like the most common class."""
    held_C = weights_C > 0
    least = weights_C[held_C].min() if held_C.any() else weights_C.new_ones(())
    largest_N = torch.where(labels_NC > 0, weights_C, 0.0).amax(1)
    return torch.where((labels_NC > 0).any(1), largest_N, least)
