"""1,600 random vectors of 32 numbers in 10 classes."""

import torch

from runner.dataset import Records
from runner.schema import Options

KIND = "records"


class Config(Options):
    """Nothing to choose."""


def build(config: Config, split: str) -> Records:
    generator = torch.Generator().manual_seed(0)
    columns = {"vectors": torch.randn(1600, 32, generator=generator)}
    labels = torch.randint(10, (1600,), generator=generator)
    return Records(columns, labels, tuple(str(number) for number in range(10)))
