"""What happens to each sample in one view: the boxes, factors and choices, drawn on the host in NumPy.

Each number belongs to (seed, epoch, sample, view) and has a fixed place among the sample's numbers (`Place`),
so switching one operation off changes no other.

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
    BOXES = 16  # ten areas, then ten aspect ratios


@dataclass(frozen=True)
class ViewDraws:
    """One row for each of B samples."""

    box_B4: Integers
    """Top, left, height, width of the part shown, in pixels of the image."""

    flip_B: Choices
    jitter_B: Choices
    factors_B4: Floats
    """Factors of brightness, contrast and saturation, and the shift of the hue in turns."""

    order_B4: Integers
    """The order of the four colour changes, by their places in `factors_B4`."""

    greyscale_B: Choices
    blur_B: Choices
    sigma_B: Floats
    solarize_B: Choices


def draw_view(
    config: ViewsConfig, ids_B: Integers, shape: tuple[int, int], *, seed: int, epoch: int, view: int
) -> ViewDraws:
    """Draw view number `view` (global views first) of images of `shape` (height, width)."""
    u = draw_uniforms(seed, epoch, ids_B, view, Place.BOXES + 2 * ATTEMPTS)
    large = view < config.global_views
    low, high = config.blur.sigma
    return ViewDraws(
        box_B4=draw_boxes(u, shape, config.global_scale if large else config.local_scale, config.aspect_ratio),
        flip_B=u[:, Place.FLIP] < config.flip_probability,
        jitter_B=u[:, Place.JITTER] < config.jitter.probability,
        factors_B4=scale_factors(u[:, Place.FACTORS : Place.FACTORS + 4], config.jitter),
        order_B4=ORDERS[(u[:, Place.ORDER] * len(ORDERS)).astype(np.int64)],
        greyscale_B=u[:, Place.GREYSCALE] < config.greyscale_probability,
        blur_B=u[:, Place.BLUR] < config.blur.probability,
        sigma_B=low + (high - low) * u[:, Place.SIGMA],
        solarize_B=(u[:, Place.SOLARIZE] < config.solarize.probability) & large,
    )


def draw_boxes(
    u: Floats, shape: tuple[int, int], scale: tuple[float, float], aspect_ratio: tuple[float, float]
) -> Integers:
    """(B, 4) boxes of a random area and aspect ratio inside the image, as torchvision's RandomResizedCrop.

    The first of ten attempts that fits is taken; if none does, the largest allowed box in the middle.
    """
    height, width = shape
    areas_BA = height * width * (scale[0] + (scale[1] - scale[0]) * u[:, Place.BOXES : Place.BOXES + ATTEMPTS])
    low, high = np.log(aspect_ratio)
    ratios_BA = np.exp(low + (high - low) * u[:, Place.BOXES + ATTEMPTS :])
    sides_BA2 = np.rint(np.sqrt(np.stack([areas_BA / ratios_BA, areas_BA * ratios_BA], axis=-1)))

    fits_BA = ((sides_BA2 > 0) & (sides_BA2 <= shape)).all(-1)
    sides_B2 = sides_BA2[np.arange(len(u)), fits_BA.argmax(1)]
    corner_B2 = np.floor(u[:, [Place.TOP, Place.LEFT]] * (shape - sides_B2 + 1))

    none_B1 = ~fits_BA.any(1, keepdims=True)
    largest = np.array([min(height, round(width / aspect_ratio[0])), min(width, round(height * aspect_ratio[1]))])
    sides_B2 = np.where(none_B1, largest, sides_B2)
    corner_B2 = np.where(none_B1, (shape - largest) // 2, corner_B2)
    return np.concatenate([corner_B2, sides_B2], axis=1).astype(np.int64)


def scale_factors(u_B4: Floats, config: JitterConfig) -> Floats:
    """Numbers in 0..1 become the factors of brightness, contrast and saturation, and the shift of the hue."""
    strengths = np.array([config.brightness, config.contrast, config.saturation, config.hue])
    return np.array([1.0, 1.0, 1.0, 0.0]) + strengths * (2 * u_B4 - 1)
