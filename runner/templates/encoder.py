"""What new_name is, in one line, with its paper: here a few strided convolutions.

Works as it is. What to change: the options in `Config`, the layers, `width`.

Shapes: B images, C channels, H x W pixels.
"""

from pydantic import Field
from torch import Tensor, nn

from runner.schema import Options


class Config(Options):
    """The options in the experiment file, each with a type, its bounds, a default and a line of text."""

    width: int = Field(32, ge=2)
    """Number of features."""


def build(config: Config, channels: int) -> "NewName":
    """A network with random weights, from torch's generator, which the trial's seed has set."""
    return NewName(config.width, channels)


class NewName(nn.Module):
    """Features at any size of image, and of each image by itself once it is in evaluation mode."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.width = width
        self.body = nn.Sequential(
            nn.Conv2d(channels, width // 2, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width // 2),
            nn.ReLU(inplace=True),
            nn.Conv2d(width // 2, width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """(B, width) features."""
        features: Tensor = self.body(images_BCHW).mean(dim=(2, 3))
        return features
