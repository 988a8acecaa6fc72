"""What happens to each sample in one view: the boxes, factors and choices, drawn on the host in NumPy.

Each number belongs to (seed, epoch, sample, view) and has a fixed place among the sample's numbers
(`Place`), so switching one operation off changes no other.

Shapes: B samples, A attempts at a box.
"""

from dataclasses import dataclass
from enum import IntEnum
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from runner.randomness import draw_uniforms
from runner.views_config import JitterConfig, ViewsConfig

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Choices = NDArray[np.bool_]

ATTEMPTS = 10
ORDERS = np.array(list(permutations(range(4))))
"""All orders of the four colour changes: brightness 0, contrast 1, saturation 2, hue 3."""


class Place(IntEnum):
    """Which of a sample's numbers decides what; places 13 to 15 are free."""

    TOP = 0
    LEFT = 1
    FLIP = 2
    JITTER = 3
    FACTORS = 4  # and 5, 6, 7
    ORDER = 8
    GREYSCALE = 9
    BLUR = 10
    SIGMA = 11
    SOLARIZE = 12
    AREAS = 16  # to 25
    RATIOS = 26  # to 35


@dataclass(frozen=True)
class ViewDraws:
    """One row for each of B samples."""

    box: Integers
    """(B, 4) top, left, height, width of the part shown, in pixels of the image."""

    flip: Choices
    jitter: Choices
    factors: Floats
    """(B, 4) factors of brightness, contrast and saturation, and the shift of the hue in turns."""

    order: Integers
    """(B, 4) the colour changes in their order, by their places in `factors`."""

    greyscale: Choices
    blur: Choices
    sigma: Floats
    """(B,) standard deviation of the blur, in pixels of the view."""

    solarize: Choices


def draw_view(
    config: ViewsConfig, ids_B: Integers, shape: tuple[int, int], *, seed: int, epoch: int, view: int
) -> ViewDraws:
    """Draw view number `view` (the global ones come first) of images of `shape` (height, width)."""
    u = draw_uniforms(seed, epoch, ids_B, view, Place.RATIOS + ATTEMPTS)
    large = view < config.global_views
    scale = config.global_scale if large else config.local_scale
    low, high = config.blur.sigma
    return ViewDraws(
        box=draw_boxes(u, shape, scale, config.aspect_ratio),
        flip=u[:, Place.FLIP] < config.flip_probability,
        jitter=u[:, Place.JITTER] < config.jitter.probability,
        factors=scale_factors(u[:, Place.FACTORS : Place.FACTORS + 4], config.jitter),
        order=ORDERS[(u[:, Place.ORDER] * len(ORDERS)).astype(np.int64)],
        greyscale=u[:, Place.GREYSCALE] < config.greyscale_probability,
        blur=u[:, Place.BLUR] < config.blur.probability,
        sigma=low + (high - low) * u[:, Place.SIGMA],
        solarize=(u[:, Place.SOLARIZE] < config.solarize.probability) & large,
    )


def draw_boxes(
    u: Floats, shape: tuple[int, int], scale: tuple[float, float], aspect_ratio: tuple[float, float]
) -> Integers:
    """(B, 4) boxes of a random area and aspect ratio inside the image, as torchvision's RandomResizedCrop.

    The first of ten attempts that fits is taken; if none does, the largest allowed box in the middle.
    """
    height, width = shape
    area_BA = scale[0] + (scale[1] - scale[0]) * u[:, Place.AREAS : Place.AREAS + ATTEMPTS]
    area_BA *= height * width
    low, high = np.log(aspect_ratio)
    ratio_BA = np.exp(low + (high - low) * u[:, Place.RATIOS : Place.RATIOS + ATTEMPTS])
    sides_BA2 = np.rint(np.sqrt(np.stack([area_BA / ratio_BA, area_BA * ratio_BA], axis=-1)))

    fits_BA = ((sides_BA2 > 0) & (sides_BA2 <= shape)).all(-1)
    sides_B2 = sides_BA2[np.arange(len(u)), fits_BA.argmax(1)]
    corner_B2 = np.floor(u[:, [Place.TOP, Place.LEFT]] * (shape - sides_B2 + 1))

    none_B1 = ~fits_BA.any(1, keepdims=True)
    tallest, widest = round(width / aspect_ratio[0]), round(height * aspect_ratio[1])
    largest_2 = np.minimum(shape, (tallest, widest))
    sides_B2 = np.where(none_B1, largest_2, sides_B2)
    corner_B2 = np.where(none_B1, (shape - largest_2) // 2, corner_B2)
    return np.concatenate([corner_B2, sides_B2], axis=1).astype(np.int64)


def scale_factors(u_B4: Floats, config: JitterConfig) -> Floats:
    """Numbers in 0..1 become factors of brightness, contrast and saturation, and a shift of the hue."""
    strengths_4 = np.array([config.brightness, config.contrast, config.saturation, config.hue])
    return np.array([1.0, 1.0, 1.0, 0.0]) + strengths_4 * (2 * u_B4 - 1)
