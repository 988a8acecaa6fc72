"""The random start of every convolutional encoder here."""

import math

from torch import nn


def initialise(module: nn.Module) -> None:
    """Kaiming-normal convolutions (fan out), and norms that start as the identity; the rest stays as it is.

    Source: He et al. 2015, eq. 14; the same start as the ResNets of He et al. 2016.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            # init.kaiming_normal_ overlooks groups: depthwise outputs would vanish beside the norm's epsilon.
            fan_out = part.out_channels * math.prod(part.kernel_size) / part.groups
            nn.init.normal_(part.weight, std=math.sqrt(2 / fan_out))
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.BatchNorm2d | nn.GroupNorm):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
