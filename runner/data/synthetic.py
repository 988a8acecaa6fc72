"""Images of stripes under noise, made on the spot: the class is their direction. For tests and tutorials; no files.

Shapes: N images of S x S pixels.
"""

import math
from typing import Literal

import torch
from pydantic import Field

from runner.dataset import ImageSet
from runner.schema import Options


class Config(Options):
    samples: int = Field(default=256, ge=1)
    """Training images; there are half as many test images."""

    classes: int = Field(default=4, ge=2)
    """Directions, evenly spread over half a turn."""

    size: int = Field(default=16, ge=1)
    """Pixels of a side."""

    channels: Literal[1, 3] = 1
    """1 is grey; 3 are alike but for the noise."""

    noise: float = Field(default=0.5, ge=0)
    """Standard deviation of the noise; the stripes go from -1 to 1."""

    seed: int = Field(default=0, ge=0, lt=2**31)
    """Of phases and noise."""


def most_samples(config: Config) -> int:
    return config.samples


def build(config: Config, split: Literal["train", "test"]) -> ImageSet:
    """The same images for the same options."""
    is_test = split == "test"
    generator = torch.Generator().manual_seed(2 * config.seed + is_test)
    count = math.ceil(config.samples / 2) if is_test else config.samples
    labels_N = torch.arange(count) % config.classes
    angle_N11 = math.pi * labels_N[:, None, None] / config.classes
    place_S = torch.arange(config.size) * (4 * math.pi / config.size)
    phase_N11 = 2 * math.pi * torch.rand(count, 1, 1, generator=generator)
    waves_NSS = torch.sin(place_S[:, None] * angle_N11.sin() + place_S * angle_N11.cos() + phase_N11)
    shape = (count, config.channels, config.size, config.size)
    images = waves_NSS[:, None] + config.noise * torch.randn(shape, generator=generator)
    pixels = (128 + 48 * images).round().clamp(0, 255).to(torch.uint8)
    names = tuple(f"{round(180 * number / config.classes)} degrees" for number in range(config.classes))
    mean, std = 128 / 255, 48 * math.sqrt(0.5 + config.noise**2) / 255
    return ImageSet(pixels, labels_N, names, (mean,) * config.channels, (std,) * config.channels)
