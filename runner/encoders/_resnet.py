"""The ResNets of `transformers`, randomly initialised and without a classifier.

Shapes: B images, C channels, H x W pixels.
"""

from typing import Literal

from torch import Tensor, nn

from runner.encoders._init import initialise
from runner.schema import Options

Stem = Literal["imagenet", "small"]


class ResNetOptions(Options):
    stem: Stem = "imagenet"
    """imagenet: 7x7 convolution of stride 2, then max pooling. small: 3x3 of stride 1 and no pooling, for
    images of up to about 64 pixels (Chen et al. 2020, appendix B.9)."""


class ResNet(nn.Module):
    """A ResNet up to its global average (He et al. 2016)."""

    def __init__(
        self,
        layer: Literal["basic", "bottleneck"],
        depths: tuple[int, ...],
        widths: tuple[int, ...],
        channels: int,
        stem: Stem,
    ) -> None:
        super().__init__()
        from transformers import ResNetConfig, ResNetModel  # heavy, and only needed by who names this encoder

        self.width = widths[-1]
        self.body = ResNetModel(
            ResNetConfig(num_channels=channels, layer_type=layer, depths=depths, hidden_sizes=widths)
        )
        if stem == "small":
            self.body.embedder = nn.Sequential(
                nn.Conv2d(channels, self.body.config.embedding_size, 3, padding=1, bias=False),
                nn.BatchNorm2d(self.body.config.embedding_size),
                nn.ReLU(inplace=True),
            )
            initialise(self.body.embedder)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """(B, width) features."""
        features: Tensor = self.body(images_BCHW).pooler_output.flatten(1)
        return features
