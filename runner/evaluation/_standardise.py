"""Features on a common scale, as logistic models want them.

Shapes: N training samples, M test samples, D embedding width.
"""

import torch
from torch import Tensor


def standardise(train_ND: Tensor, test_MD: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float64 with the mean 0 and the variance 1 of the training rows; constant features become 0."""
    train_ND, test_MD = train_ND.double(), test_MD.double()
    mean_D, std_D = train_ND.mean(dim=0), train_ND.std(dim=0, correction=0)
    std_D = torch.where(std_D > 0, std_D, 1)
    return (train_ND - mean_D) / std_D, (test_MD - mean_D) / std_D
