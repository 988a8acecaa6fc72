"""A few strided convolutions, for tests, tutorials and CPUs: 98 thousand parameters at most by default.

Shapes: B images, C channels, H x W pixels.
"""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from runner.encoders._init import initialise
from runner.schema import Options

Norm = Literal["batch", "group"]


class Config(Options):
    widths: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(16, 32, 64, 128), min_length=1)
    """Channels after each convolution, which halves the size; the last one is the width of the features."""

    norm: Norm = "batch"
    """batch, or group (one group): the same features whatever else is in the batch or on how many ranks."""


class SmallConvnet(nn.Module):
    """Convolution (3x3, stride 2), norm, ReLU, as often as there are widths; then the global average."""

    def __init__(self, channels: int, widths: tuple[int, ...], norm: Norm) -> None:
        super().__init__()
        self.width = widths[-1]
        self.body = nn.Sequential()
        for inputs, outputs in zip((channels, *widths), widths, strict=False):
            self.body.append(nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False))
            self.body.append(nn.BatchNorm2d(outputs) if norm == "batch" else nn.GroupNorm(1, outputs))
            self.body.append(nn.ReLU(inplace=True))
        initialise(self)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """(B, width) features."""
        features: Tensor = self.body(images_BCHW).mean(dim=(2, 3))
        return features


def build(config: Config, channels: int) -> SmallConvnet:
    """A small convolutional network with random weights."""
    return SmallConvnet(channels, config.widths, config.norm)
