"""Views of images: random crops, colours and blur, made batch by batch on the device that holds the images.

A view is a function of (seed, epoch, sample id, view number) and of the image alone. What happens to each sample
is drawn on the host (runner/view_draws.py), moved to the device in two small copies that nothing waits for, and
applied by operations that treat every sample as if it were alone (runner/filters.py, runner/color.py). So a view
is the same bit for bit in any batch, on any number of ranks and threads.

Shapes: B samples, C channels (1 or 3), H x W pixels of the source, S pixels of a side of a view, R weights of
the blur kernel from its centre outwards.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from runner import color, filters
from runner.errors import DataError
from runner.view_draws import Floats, Integers, ViewDraws, draw_view
from runner.views_config import ViewsConfig, choose_kernel, choose_sizes

CHUNK_VALUES = 400_000
"""Values (pixels times channels) handled at once on a CPU, where a working set that leaves the cache costs most."""

CHANGES = color.change_brightness, color.change_contrast, color.change_saturation, color.shift_hue

TO_YIQ = np.array([color.LUMA, (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135)])
FROM_YIQ = np.linalg.inv(TO_YIQ)

Array = NDArray[Any]


def make_views(
    images_BCHW: Tensor,
    ids_B: Tensor,
    config: ViewsConfig,
    *,
    seed: int,
    epoch: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> tuple[list[Tensor], list[Tensor]]:
    """The global and the local views of uint8 images, each (B, C, S, S) float32 on the images' device.

    `ids_B` are the samples' places in the data set; they must lie on the CPU, because the draws are made there.
    `mean` and `std` are per channel, of pixels scaled to 0..1. Never waits for the device.

    Raises DataError for images of neither one nor three channels.
    """
    B, C, H, W = images_BCHW.shape
    assert images_BCHW.dtype == torch.uint8 and ids_B.device.type == "cpu" and len(ids_B) == B
    if C not in (1, 3):
        raise DataError(f"views are made of images with 1 or 3 channels, these have {C}")
    views = [torch.empty(B, C, size, size, device=images_BCHW.device) for size in choose_sizes(config, H, W)]
    parts = math.ceil(B * C * H * W / CHUNK_VALUES) if images_BCHW.device.type == "cpu" else 1
    for rows in np.array_split(np.arange(B), min(B, parts)) if B else []:
        ...
    return views[: config.global_views], views[config.global_views :]


def plain_view(images_BCHW: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(B, C, H, W) float32: the images as they are, normalised; what encoders see in evaluation."""
    scaled = images_BCHW.float() / 255
    return normalise(scaled, mean, std, out=scaled)


def normalise(images_BCHW: Tensor, mean: Sequence[float], std: Sequence[float], *, out: Tensor) -> Tensor:
    """(images - mean) / std channel by channel, with plain numbers so that no small tensor has to be sent."""
    for channel, target, m, s in zip(images_BCHW.unbind(1), out.unbind(1), mean, std, strict=True):
        torch.sub(channel, m, out=target).mul_(1 / s)
    return out


def make_view(images_BCHW: Tensor, draws: ViewDraws, config: ViewsConfig, size: int) -> Tensor:
    """One view of uint8 images, (B, C, S, S) in 0..1: crop, flip, jitter, greyscale, blur, solarize."""
    C = images_BCHW.shape[1]
    exact = config.jitter_mode == "exact"
    arrays = {
        "box": draws.box_B4.astype(np.float64),
        "flip": draws.flip_B.astype(np.float64),
        "blur": np.flatnonzero(draws.blur_B),
        "kernel": gaussian(draws.sigma_B[draws.blur_B], choose_kernel(config.blur, size)),
        "solarize": np.flatnonzero(draws.solarize_B),
        **(plan_exact(draws) if exact else plan_fast(draws, C)),
    }
    sent = send(arrays, images_BCHW.device)

    view = filters.crop_and_resize(images_BCHW, sent["box"], sent["flip"], size)
    if exact:
        view = jitter(view, draws, sent)
        change_rows(view, sent["greyscale"], color.drop_color)
    else:
        color.apply_matrix(view, sent["matrix"], sent["pivot"])
    if len(sent["blur"]) == len(view):
        view = filters.blur(view, sent["kernel"])
    elif len(sent["blur"]):
        view.index_copy_(0, sent["blur"], filters.blur(view.index_select(0, sent["blur"]), sent["kernel"]))
    change_rows(view, sent["solarize"], partial(color.solarize, threshold=config.solarize.threshold))
    return view


def change_rows(images_BCHW: Tensor, rows_N: Tensor, change: Callable[[Tensor], None]) -> None:
    """Apply an in-place change to some of the images only."""
    if len(rows_N):
        part = images_BCHW.index_select(0, rows_N)
        change(part)
        images_BCHW.index_copy_(0, rows_N, part)


def plan_exact(draws: ViewDraws) -> dict[str, Array]:
    """For each of the four places in the order of the changes: how to sort the images by change, and the factors."""
    arrays: dict[str, Array] = {"greyscale": np.flatnonzero(draws.greyscale_B)}
    where_B = np.arange(len(draws.flip_B))
    for slot, change_B in enumerate(group_changes(draws)):
        rows_B = np.argsort(change_B, kind="stable")
        jittered = rows_B[: np.count_nonzero(draws.jitter_B)]
        arrays[f"sort_{slot}"] = where_B[rows_B]
        arrays[f"factor_{slot}"] = draws.factors_B4[jittered, change_B[jittered]]
        where_B = np.argsort(rows_B)
    return arrays | {"unsort": where_B}


def group_changes(draws: ViewDraws) -> list[Integers]:
    """(B,) for each place in the order: which change each image undergoes there; 4 is none."""
    return [np.where(draws.jitter_B, change_B, len(CHANGES)) for change_B in draws.order_B4.T]


def jitter(images_BCHW: Tensor, draws: ViewDraws, sent: dict[str, Tensor]) -> Tensor:
    """Four rounds; in each, images are sorted so that those with the same change lie together."""
    for slot, change_B in enumerate(group_changes(draws)):
        images_BCHW = images_BCHW.index_select(0, sent[f"sort_{slot}"])
        sizes = np.bincount(change_B, minlength=len(CHANGES) + 1)[: len(CHANGES)].tolist()
        start = 0
        for change, size in zip(CHANGES, sizes, strict=True):
            if size:
                rows = slice(start, start + size)
                change(images_BCHW[rows], sent[f"factor_{slot}"][rows])
            start += size
    return images_BCHW.index_select(0, sent["unsort"])


def plan_fast(draws: ViewDraws, channels: int) -> dict[str, Array]:
    """The colour matrix of each image, and the factor of its mean luminance: brightness * (1 - contrast).

    Brightness, contrast, saturation, hue in this order. In YIQ saturation scales the two colour axes and hue turns
    them; both leave grey alone, so the grey that contrast adds can be added last.
    """
    factors_B4 = np.where(draws.jitter_B[:, None], draws.factors_B4, [1.0, 1.0, 1.0, 0.0])
    brightness, contrast, saturation, hue = factors_B4.T
    if channels == 1:
        matrix_BCC = np.ones((len(hue), 1, 1))
    else:
        saturation = np.where(draws.greyscale_B, 0.0, saturation)
        turned_BYY = np.zeros((len(hue), 3, 3))
        turned_BYY[:, 0, 0] = 1
        turned_BYY[:, 1, 1] = turned_BYY[:, 2, 2] = saturation * np.cos(2 * np.pi * hue)
        turned_BYY[:, 1, 2] = saturation * np.sin(2 * np.pi * hue)
        turned_BYY[:, 2, 1] = -turned_BYY[:, 1, 2]
        matrix_BCC = FROM_YIQ @ turned_BYY @ TO_YIQ
    return {"matrix": (brightness * contrast)[:, None, None] * matrix_BCC, "pivot": brightness * (1 - contrast)}


def gaussian(sigma_B: Floats, width: int) -> Floats:
    """(B, R) weights of a Gaussian kernel of `width` pixels that sums to 1, from its centre outwards."""
    distance_R = np.arange(width // 2 + 1)
    weights_BR = np.exp(-0.5 * (distance_R / sigma_B[:, None]) ** 2)
    return weights_BR / (weights_BR[:, :1] + 2 * weights_BR[:, 1:].sum(1, keepdims=True))


def send(arrays: dict[str, Array], device: torch.device) -> dict[str, Tensor]:
    """Host arrays as tensors on `device`, floats as float32: one copy for each type, and no wait."""
    tensors = {
        name: torch.from_numpy(array if array.dtype.kind == "i" else array.astype(np.float32))
        for name, array in arrays.items()
    }
    if device.type == "cpu":
        return tensors
    sent = {}
    for dtype in {tensor.dtype for tensor in tensors.values()}:
        names = [name for name, tensor in tensors.items() if tensor.dtype == dtype]
        packed = torch.cat([tensors[name].flatten() for name in names])
        # only pinned memory is copied without the host waiting for it
        pieces = packed.pin_memory().to(device, non_blocking=True).split([tensors[n].numel() for n in names])
        sent |= {name: piece.view(tensors[name].shape) for name, piece in zip(names, pieces, strict=True)}
    return sent
