"""ResNet-18: 512 features (He et al. 2016, table 1)."""

from runner.encoders._resnet import ResNet, ResNetOptions


class Config(ResNetOptions): ...


def build(config: Config, channels: int) -> ResNet:
    """A ResNet-18 with random weights."""
    return ResNet("basic", (2, 2, 2, 2), (64, 128, 256, 512), channels, config.stem)
