"""Colour changes of a batch of images, each image with a factor of its own.

Every step is a single elementwise operation that IEEE arithmetic rounds once (no fused multiply-add, no
library reduction, no matrix product), so an image comes out bit for bit the same in any batch and on any
number of threads. The functions change `images_BCHW` in place and return nothing.

Shapes: B images, C channels (1 or 3: red, green, blue), H x W pixels in 0..1.
"""

import torch
from torch import Tensor

LUMA = 0.299, 0.587, 0.114
"""Weights of red, green and blue in the luminance (ITU-R BT.601), as in PIL and in the YIQ system."""


def change_brightness(images_BCHW: Tensor, factor_B: Tensor) -> None:
    """Scale towards black (factor 0) or beyond the original (above 1)."""
    images_BCHW.mul_(factor_B[:, None, None, None]).clamp_(0, 1)


def change_contrast(images_BCHW: Tensor, factor_B: Tensor) -> None:
    """Blend with the mean luminance of the image, a flat grey."""
    blend(images_BCHW, mean_luminance(images_BCHW)[:, None, None, None], factor_B)


def change_saturation(images_BCHW: Tensor, factor_B: Tensor) -> None:
    """Blend with the image's own greyscale; nothing to do for one channel."""
    if images_BCHW.shape[1] == 3:
        blend(images_BCHW, luminance(images_BCHW)[:, None], factor_B)


def blend(images_BCHW: Tensor, grey_B1HW: Tensor, factor_B: Tensor) -> None:
    """factor * image + (1 - factor) * grey, clamped to 0..1."""
    factor_B111 = factor_B[:, None, None, None]
    images_BCHW.mul_(factor_B111).add_(grey_B1HW * (1 - factor_B111)).clamp_(0, 1)


def shift_hue(images_BCHW: Tensor, turns_B: Tensor) -> None:
    """Turn the hue of HSV by `turns_B`, between -1/2 and 1/2; value and saturation stay.

    With the chroma c = max - min and the hue h in sixths of a turn, -3..3, red at 0, the hexagon of HSV is
    h = sign(g - b) * (1 + (g + b - r - min) / c), and back again: red = min + c * clamp(2 - |h|, 0, 1),
    green and blue the same with h - 2 and h + 2, all modulo 6. That needs no branches.
    """
    if images_BCHW.shape[1] == 1:
        return
    red, green, blue = images_BCHW.unbind(1)
    least = torch.minimum(red, green).minimum(blue)
    chroma = torch.maximum(red, green).maximum(blue).sub_(least)

    hue = torch.add(green, blue).sub_(red).sub_(least)
    # a grey pixel has no hue: any will do, since its chroma of 0 multiplies it away
    hue.div_(chroma.clamp(min=1e-12)).add_(1).copysign_(green - blue).add_(6 * turns_B[:, None, None])

    for channel, place in zip((red, green, blue), (0, 2, -2), strict=True):
        torch.sub(hue, place, out=channel)
        channel.abs_()
        # at most 3 + 3 + 2 here, so one fold brings it back into 0..3
        torch.minimum(channel, (channel - 6).abs_(), out=channel)
        channel.neg_().add_(2).clamp_(0, 1).mul_(chroma).add_(least)


def drop_color(images_BCHW: Tensor) -> None:
    """Replace each image by its greyscale; nothing to do for one channel."""
    if images_BCHW.shape[1] == 3:
        images_BCHW.copy_(luminance(images_BCHW)[:, None].expand_as(images_BCHW))


def solarize(images_BCHW: Tensor, threshold: float) -> None:
    """Invert the pixels at or above `threshold`."""
    images_BCHW.copy_(torch.where(images_BCHW >= threshold, 1 - images_BCHW, images_BCHW))


def apply_matrix(images_BCHW: Tensor, matrix_BCC: Tensor, lift_B: Tensor) -> None:
    """Matrix times pixel, plus `lift_B` times the image's mean luminance, clamped to 0..1."""
    offset_B111 = (mean_luminance(images_BCHW) * lift_B)[:, None, None, None]
    columns = matrix_BCC[..., None, None].unbind(2)
    planes = images_BCHW[:, :, None].unbind(1)
    mixed_BCHW = planes[0] * columns[0]
    for plane_B1HW, column_BC11 in zip(planes[1:], columns[1:], strict=True):
        mixed_BCHW.add_(plane_B1HW * column_BC11)
    torch.add(mixed_BCHW, offset_B111, out=images_BCHW).clamp_(0, 1)


def luminance(images_BCHW: Tensor) -> Tensor:
    """(B, H, W) weighted sum of the channels; the channel itself if there is one."""
    if images_BCHW.shape[1] == 1:
        return images_BCHW[:, 0]
    red, green, blue = images_BCHW.unbind(1)
    return (red * LUMA[0]).add_(green * LUMA[1]).add_(blue * LUMA[2])


def mean_luminance(images_BCHW: Tensor) -> Tensor:
    """(B,) mean over the pixels of the luminance."""
    pixels_BCN = images_BCHW.flatten(2)
    means_BC11 = (sum_pairwise(pixels_BCN) / pixels_BCN.shape[-1])[..., None]
    return luminance(means_BC11)[:, 0, 0]


def sum_pairwise(values: Tensor) -> Tensor:
    """Sum over the last dimension, kept as 1, by adding halves: the same order in every batch."""
    while (length := values.shape[-1]) > 1:
        half = length // 2
        sums = values[..., :half] + values[..., half : 2 * half]
        if length % 2:
            sums[..., :1] += values[..., -1:]
        values = sums
    return values
