"""Cropping with resizing, and blurring, of a batch of images, each with a box and a kernel of its own.

As in runner/color.py every arithmetic step rounds once per element, so no image is changed by the batch
it is in.

Shapes: B images, C channels, H x W pixels of the source, S pixels of a side of the view, K taps, R weights
of the blur kernel from its centre outwards.
"""

import math
from collections.abc import Iterable
from functools import reduce

import torch
from torch import Tensor


def crop_and_resize(images_BCHW: Tensor, box_B4: Tensor, flip_B: Tensor, size: int) -> Tensor:
    """(B, C, S, S) float32 in 0..1: the part of each uint8 image inside its box, resized, perhaps mirrored.

    `box_B4` holds top, left, height, width, and `flip_B` 1 to mirror left to right, all as floats. The
    filter is the antialiased bilinear one of PIL and torchvision: two taps a side where the view enlarges,
    a triangle two view pixels wide where it shrinks. Pixels outside the box are never read.
    """
    B, C, H, W = images_BCHW.shape
    top_B, left_B, height_B, width_B = box_B4.unbind(1)

    rows_KBS, weights_KBS = place_taps(top_B, height_B, torch.zeros_like(flip_B), size, H)
    first_row_BC1 = torch.arange(B * C, device=images_BCHW.device).view(B, C, 1) * H
    rows_KBCS = first_row_BC1 + rows_KBS[:, :, None]
    source = images_BCHW.reshape(B * C * H, W)
    taps = (source.index_select(0, rows_BCS.flatten()).float().view(B, C, size, W) for rows_BCS in rows_KBCS)
    resized_BCSW = sum_weighted(taps, (weights_KBS / 255)[:, :, None, :, None])

    columns_KBS, weights_KBS = place_taps(left_B, width_B, flip_B, size, W)
    columns_KBCSS = columns_KBS[:, :, None, None].expand(-1, B, C, size, size)
    taps = (resized_BCSW.gather(3, columns_BCSS) for columns_BCSS in columns_KBCSS)
    return sum_weighted(taps, weights_KBS[:, :, None, None])


def sum_weighted(taps: Iterable[Tensor], weights: Iterable[Tensor]) -> Tensor:
    """Weighted sum, one tap after the other; the taps are overwritten."""
    return reduce(Tensor.add_, (tap.mul_(weight) for tap, weight in zip(taps, weights, strict=True)))


def place_taps(start_B: Tensor, length_B: Tensor, flip_B: Tensor, size: int, most: int) -> tuple[Tensor, Tensor]:
    """Which source pixels make each view pixel along one axis, and their weights: two (K, B, S) tensors.

    No length exceeds `most`, which fixes the number of taps; those beyond an image's own have weight 0.
    """
    positions_S = torch.arange(size, device=start_B.device, dtype=torch.float32)
    positions_BS = positions_S + flip_B[:, None] * (size - 1 - 2 * positions_S)
    scale_B1 = (length_B / size)[:, None]
    reach_B1 = scale_B1.clamp(min=1)
    centre_BS = (positions_BS + 0.5) * scale_B1
    taps_K = torch.arange(math.ceil(2 * max(1, most / size)), device=start_B.device, dtype=torch.float32)
    offset_KBS = (centre_BS - reach_B1 + 0.5).floor_() + taps_K[:, None, None]

    pixels_KBS = offset_KBS.clamp(min=0).minimum(length_B[:, None] - 1)
    outside_KBS = (offset_KBS - pixels_KBS).abs_()
    distance_KBS = (offset_KBS + 0.5).sub_(centre_BS).abs_().div_(reach_B1)
    weights_KBS = (1 - distance_KBS).sub_(outside_KBS).clamp_(min=0)
    total_BS = reduce(torch.add, weights_KBS.unbind(0))
    return pixels_KBS.add_(start_B[:, None]).long(), weights_KBS.div_(total_BS)


def blur(images_BCHW: Tensor, kernel_BR: Tensor) -> Tensor:
    """Blurred along both axes, mirrored at the edges without repeating the edge pixel.

    Row i of `kernel_BR` has the weight of the centre, then those at distance 1, 2, ..., R - 1 < H, W.
    """
    return blur_axis(blur_axis(images_BCHW, kernel_BR, 3), kernel_BR, 2)


def blur_axis(images_BCHW: Tensor, kernel_BR: Tensor, axis: int) -> Tensor:
    """Blurred along one axis."""
    length, radius = images_BCHW.shape[axis], kernel_BR.shape[1] - 1
    before = images_BCHW.narrow(axis, 1, radius).flip(axis)
    after = images_BCHW.narrow(axis, length - 1 - radius, radius).flip(axis)
    padded = torch.cat([before, images_BCHW, after], axis)
    weights = kernel_BR[:, :, None, None, None].unbind(1)
    blurred = images_BCHW * weights[0]
    for distance in range(1, radius + 1):
        pair = padded.narrow(axis, radius - distance, length) + padded.narrow(axis, radius + distance, length)
        blurred.add_(pair.mul_(weights[distance]))
    return blurred
