"""Colour jitter of a batch: planned on the host, so that the device is told what to do in one go.

exact  Brightness, contrast, saturation and hue one after the other, in an order of each image's own and
       clamped after each, as torchvision's ColorJitter. There are four rounds; in each the images are
       sorted by the change that is due.
fast   The same factors as one 3x3 matrix for each image, in a fixed order and clamped once.

Shapes: B images, N of them with the same change, C channels (1 or 3), H x W pixels in 0..1.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from runner import color
from runner.view_draws import Integers, ViewDraws

Array = NDArray[Any]

CHANGES = color.change_brightness, color.change_contrast, color.change_saturation, color.shift_hue
NONE = len(CHANGES)
IDENTITY = np.array([1.0, 1.0, 1.0, 0.0])
"""Factors and shift that change nothing."""

TO_YIQ = np.array([color.LUMA, (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135)])
FROM_YIQ = np.linalg.inv(TO_YIQ)


def plan_exact(draws: ViewDraws) -> dict[str, Array]:
    """How to sort the images before each round, how to undo it at the end, and the factors of each round."""
    changes = list_changes(draws)
    rows = [np.argsort(changes_B, kind="stable") for changes_B in changes]
    places = [np.argsort(rows_B) for rows_B in rows]
    plan: dict[str, Array] = {"unsort": places[-1]}
    for turn, (rows_B, changes_B) in enumerate(zip(rows, changes, strict=True)):
        # the images lie in the order of the round before
        plan[f"sort_{turn}"] = places[turn - 1][rows_B] if turn else rows_B
        jittered = rows_B[: np.count_nonzero(draws.jitter)]
        plan[f"factor_{turn}"] = draws.factors[jittered, changes_B[jittered]]
    return plan


def apply_exact(images_BCHW: Tensor, draws: ViewDraws, sent: dict[str, Tensor]) -> Tensor:
    """The jittered images; `sent` is the plan of `plan_exact` on their device."""
    for turn, changes_B in enumerate(list_changes(draws)):
        images_BCHW = images_BCHW.index_select(0, sent[f"sort_{turn}"])
        sizes = np.bincount(changes_B, minlength=NONE + 1).tolist()
        parts = torch.split(images_BCHW, sizes)[:NONE]
        factors = torch.split(sent[f"factor_{turn}"], sizes[:NONE])
        for change, part_NCHW, factor_N in zip(CHANGES, parts, factors, strict=True):
            if len(part_NCHW):
                change(part_NCHW, factor_N)
    return images_BCHW.index_select(0, sent["unsort"])


def list_changes(draws: ViewDraws) -> list[Integers]:
    """For each of the four rounds the (B,) changes that are due, by their places in CHANGES, or NONE."""
    return [np.where(draws.jitter, changes_B, NONE) for changes_B in draws.order.T]


def plan_fast(draws: ViewDraws, channels: int) -> dict[str, Array]:
    """The colour matrix of each image, and the share of its mean luminance that contrast adds.

    The order is brightness, contrast, saturation, hue. In YIQ saturation scales the two colour axes and hue
    turns them; neither moves a grey, so the grey that contrast blends in can be added at the end.
    """
    brightness, contrast, saturation, hue = np.where(draws.jitter[:, None], draws.factors, IDENTITY).T
    gain_B11 = (brightness * contrast)[:, None, None]
    if channels == 1:
        matrix_BCC = gain_B11
    else:
        saturation = np.where(draws.greyscale, 0.0, saturation)
        yiq_B33 = np.zeros((len(hue), 3, 3))
        yiq_B33[:, 0, 0] = 1
        yiq_B33[:, 1, 1] = yiq_B33[:, 2, 2] = saturation * np.cos(2 * np.pi * hue)
        yiq_B33[:, 1, 2] = saturation * np.sin(2 * np.pi * hue)
        yiq_B33[:, 2, 1] = -yiq_B33[:, 1, 2]
        matrix_BCC = gain_B11 * (FROM_YIQ @ yiq_B33 @ TO_YIQ)
    return {"matrix": matrix_BCC, "lift": brightness * (1 - contrast)}
