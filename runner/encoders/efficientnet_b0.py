"""EfficientNet-B0 of `transformers`, randomly initialised: 1280 features (Tan & Le 2019, table 1).

Shapes: B images, C channels, H x W pixels.
"""

from pydantic import Field
from torch import Tensor, nn

from runner.encoders._init import initialise
from runner.schema import Options


class Config(Options):
    drop_connect: float = Field(default=0.2, ge=0, lt=1)
    """Dropout in front of the residual sums: this rate at the last block, rising linearly from 0."""


class EfficientNet(nn.Module):
    """An EfficientNet-B0 up to its global average."""

    width = 1280

    def __init__(self, channels: int, drop_connect: float) -> None:
        super().__init__()
        from transformers import EfficientNetConfig, EfficientNetModel  # heavy, only needed by who names this

        config = EfficientNetConfig(
            num_channels=channels,
            image_size=224,
            width_coefficient=1.0,
            depth_coefficient=1.0,
            hidden_dim=self.width,
            drop_connect_rate=drop_connect,
            # The default, 0.99, is Keras's: torch would forget all but the last batch.
            batch_norm_momentum=0.1,
        )
        # Pad every block alike on both sides; the default of one side fails below 17 pixels.
        config.depthwise_padding = list(range(sum(config.num_block_repeats)))
        self.body = EfficientNetModel(config)
        # transformers draws the scales of batch norm around 0, for a pretrained file to overwrite.
        initialise(self.body)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """(B, width) features."""
        features: Tensor = self.body(images_BCHW).last_hidden_state.mean(dim=(2, 3))
        return features


def build(config: Config, channels: int) -> EfficientNet:
    """An EfficientNet-B0 with random weights."""
    return EfficientNet(channels, config.drop_connect)
