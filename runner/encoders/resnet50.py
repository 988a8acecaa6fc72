"""ResNet-50: 2048 features (He et al. 2016, table 1)."""

from runner.encoders._resnet import ResNet, ResNetOptions


class Config(ResNetOptions): ...


def build(config: Config, channels: int) -> ResNet:
    """A ResNet-50 with random weights."""
    return ResNet("bottleneck", (3, 4, 6, 3), (256, 512, 1024, 2048), channels, config.stem)
