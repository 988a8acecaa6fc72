"""ResNet-9: a fast network for small images (Page 2018, DAWNBench), 6.6 million parameters at full width.

Shapes: B images, C channels, H x W pixels.
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from runner.encoders._init import initialise
from runner.schema import Options


class Config(Options):
    base_width: int = Field(default=64, ge=1)
    """Channels of the first convolution; the features are eight times as wide."""


class Residual(nn.Module):
    """x plus two convolutions of x."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(*convolution(width, width), *convolution(width, width))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        sum_BCHW: Tensor = x_BCHW + self.branch(x_BCHW)
        return sum_BCHW


class ResNet9(nn.Module):
    """Eight convolutions, four poolings by two at most, global average instead of the classifier."""

    def __init__(self, channels: int, base_width: int) -> None:
        super().__init__()
        w = base_width
        self.width = 8 * w
        self.body = nn.Sequential(
            *convolution(channels, w),
            *convolution(w, 2 * w),
            _halve(),
            Residual(2 * w),
            *convolution(2 * w, 4 * w),
            _halve(),
            *convolution(4 * w, 8 * w),
            _halve(),
            Residual(8 * w),
        )
        initialise(self)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """(B, width) features."""
        images_BCHW = images_BCHW.contiguous(memory_format=torch.channels_last)
        features: Tensor = self.body(images_BCHW).mean(dim=(2, 3))
        return features


def convolution(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    """A 3x3 convolution that keeps the size, batch norm, ReLU."""
    return (
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def _halve() -> nn.MaxPool2d:
    # Rounding up instead of down keeps a pixel of even the smallest views.
    return nn.MaxPool2d(2, ceil_mode=True)


def build(config: Config, channels: int) -> ResNet9:
    """A ResNet-9 with random weights."""
    # Channels last: a third less time for convolutions, a tenth of the time for pooling in bfloat16.
    return ResNet9(channels, config.base_width).to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
